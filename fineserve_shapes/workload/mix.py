"""Mix: the plans of several streams as one, in the order in which their requests are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.prefixblocks import PrefixBlocks


def mixed_plan(plans: Mapping[str, Plan], details: Callable[[], Mapping[str, Any]] = dict) -> Plan:
    """One plan of several, by the names of their streams; a stream's number is its place.

    `Block.position` counts within each stream, so that what is drawn for a request by that does not depend on the others.
    Of requests due at the same moment those of the first stream come first.

    details: further entries for the plan's description.
    """
    parts = list(plans.values())
    sizes = [(part.requests, part.span_s) for part in parts if not part.endless]
    known = [(requests, span_s) for requests, span_s in sizes if requests is not None and span_s is not None]
    size = None
    if parts and len(known) == len(parts):
        size = sum(requests for requests, _ in known), max(span_s for _, span_s in known)
    return Plan(
        lambda: _merged([iter(part) for part in parts]),
        identity={"streams": [[name, part.fingerprint] for name, part in plans.items()]},
        sized=size is not None,
        size=size,
        endless=any(part.endless for part in parts),
        details=details,
    )


def _merged(sources: Sequence[Iterator[Block]]) -> Iterator[Block]:
    """Blocks of all sources in order of time.

    As far as the source goes whose block at hand ends first, all that is due is known: that is one block.
    """
    heads = {number: block for number, source in enumerate(sources) if (block := _next(source, number)) is not None}
    while heads:
        until_s = min(float(block.due_s[-1]) for block in heads.values())
        parts = []
        for number, block in list(heads.items()):
            end = int(np.searchsorted(block.due_s, until_s, side="right"))
            if end:
                parts.append(block.take(slice(end)))
            if end < len(block):
                heads[number] = block.take(slice(end, None))
            elif (following := _next(sources[number], number)) is not None:
                heads[number] = following
            else:
                del heads[number]
        yield _in_order(parts)


def _next(source: Iterator[Block], number: int) -> Block | None:
    """The next block of a source that has rows, marked as that stream's."""
    for block in source:
        if len(block):
            position = block.index if block.position is None else block.position
            return replace(block, stream=np.full(len(block), number, dtype=np.int64), position=position)
    return None


def _in_order(parts: Sequence[Block]) -> Block:
    """Blocks of different streams as one."""
    if len(parts) == 1:
        return parts[0]
    due_s = np.concatenate([part.due_s for part in parts])
    order = np.argsort(due_s, kind="stable")
    prefix = None
    if any(part.prefix is not None for part in parts):
        prefix = PrefixBlocks.joined([PrefixBlocks.of([()] * len(part)) if part.prefix is None else part.prefix
                                      for part in parts])  # fmt: skip
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("index", "input_tokens", "output_tokens", "stream", "position")
    }
    return Block(due_s=due_s, prefix=prefix, **columns).take(order)
