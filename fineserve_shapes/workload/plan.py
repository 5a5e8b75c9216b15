"""Plan: every request of a run and when it is due, made before anything is sent."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.block import Block, split
from fineserve_shapes.workload.seeds import Purpose, rng

FINGERPRINT_ROWS = 4096
MEASURED_ROWS = 2_000_000  # a pass over so many rows is worth knowing the plan's size for
MEASURED_S = 3.0  # and so is one that takes so long

Details = Mapping[str, Any]


class Plan:
    """An iterable of blocks in time order; each iteration starts anew and gives the same rows.

    Blocks have 1 to `BLOCK_ROWS` rows; `index` counts from 0 (see `numbered_from`) without gaps, whatever the source put
    there.

    Parameters
    ----------
    source: makes a new iterator of blocks, of any size, with ascending `due_s`; the same rows on every call. It may be
        endless, and may be slow to reach its end.
    identity: plain values (what `json` takes) that decide the rows: options, seeds, digests of files. The fingerprint
        digests them, so leave out what does not matter, such as a path.
    sized: a pass over the source ends and is cheap, so `requests` and `span_s` may be found by one.
    size: requests and span where they are known already.
    endless: the source has no end. What is cut from it has one, and is counted where that is cheap.
    details: further entries for `description`, asked for each time, since they may become known only later.
    """

    def __init__(
        self,
        source: Callable[[], Iterable[Block]],
        *,
        identity: Mapping[str, Any],
        sized: bool = False,
        size: tuple[int, float] | None = None,
        endless: bool = False,
        details: Callable[[], Details] = dict,
    ) -> None:
        self.endless = endless
        self._source = source
        self._identity = identity
        self._sized = sized
        self._details = details
        self._size = size
        self._countable = sized
        self._counted = False
        self._fingerprint: str | None = None
        self._first = 0

    def __iter__(self) -> Iterator[Block]:
        requests, span_s = 0, 0.0
        for block in self._source():
            for piece in split(block):
                index = self._first + np.arange(requests, requests + len(piece), dtype=np.int64)
                requests += len(piece)
                span_s = float(piece.due_s[-1])
                position = None if piece.position is None else piece.position + self._first
                yield replace(piece, index=index, position=position)
        self._size = requests, span_s

    def faster(self, factor: float) -> Plan:
        """Time compressed: due times divided by the factor, which keeps order and burstiness. Below 1 is slower."""
        if not (math.isfinite(factor) and factor > 0):
            raise InputError(f"the time scale must be finite and above 0, got {factor} (--time-scale)")
        plan = self._derived(
            lambda: (replace(block, due_s=block.due_s / factor) for block in self._source()), {"faster": float(factor)}
        )
        if self._size is not None:
            plan._size = self._size[0], self._size[1] / factor
        return plan

    def thinned(self, keep: float, seed: int) -> Plan:
        """Each request kept with this probability, independently: a lower rate, and less burstiness.

        Gaps with squared coefficient of variation c2 come to have 1 + keep (c2 - 1).
        """
        if not 0 < keep <= 1:
            raise InputError(f"the fraction to keep must be above 0 and at most 1, got {keep} (--keep-fraction)")

        def source() -> Iterator[Block]:
            keeping = rng(seed, Purpose.KEPT_REQUESTS)
            for block in self._source():
                yield block.take(keeping.random(len(block)) < keep)

        return self._derived(source, {"thinned": [float(keep), seed]})

    def between(self, start_s: float, end_s: float) -> Plan:
        """The requests due in [start_s, end_s), with start_s as the new time 0."""
        if not 0 <= start_s < end_s or math.isinf(start_s):
            raise InputError(f"a slice must start at 0 or later and end after its start, got {start_s} to {end_s} s")

        def source() -> Iterator[Block]:
            for block in self._source():
                first, last = np.searchsorted(block.due_s, [start_s, end_s])
                inside = block.take(slice(first, last))
                yield replace(inside, due_s=inside.due_s - start_s)
                if last < len(block):
                    return

        return self._derived(source, {"between": [float(start_s), float(end_s)]}, cut=math.isfinite(end_s))

    def limited(self, requests: int) -> Plan:
        """The first requests, at most so many."""
        if requests < 1:
            raise InputError(f"the number of requests must be at least 1, got {requests} (--num-prompts)")

        def source() -> Iterator[Block]:
            left = requests
            for block in self._source():
                yield block.take(slice(left))
                left -= len(block)
                if left <= 0:
                    return

        return self._derived(source, {"limited": requests}, cut=True)

    def numbered_from(self, first: int) -> Plan:
        """The same rows at the same times, with numbers from there on, and so with other prompts: a server that keeps
        those of the run before has not seen these."""
        plan = self._derived(self._source, {"numbered_from": first})
        plan._size, plan._first = self._size, first
        return plan

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of the identity and the first `FINGERPRINT_ROWS` rows, times to the bit."""
        if self._fingerprint is None:
            digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode())
            left = FINGERPRINT_ROWS
            columns: list[list[bytes]] = []
            for block in self:
                head = block.take(slice(left))
                columns.append(
                    [values.tobytes() for values in (head.due_s, head.input_tokens, head.output_tokens, head.stream)]
                )
                left -= len(head)
                if left <= 0:
                    break
            # column by column, so that it does not matter how the source cuts its blocks
            for column in zip(*columns, strict=True):
                digest.update(b"".join(column))
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    @property
    def requests(self) -> int | None:
        """How many requests; None while a long source has not been read to its end."""
        return None if (size := self._measured()) is None else size[0]

    @property
    def span_s(self) -> float | None:
        """Seconds from the start of the run to the last due request; None as for `requests`."""
        return None if (size := self._measured()) is None else size[1]

    @property
    def rate_rps(self) -> float | None:
        """requests / span_s; None where the span is 0 or unknown."""
        size = self._measured()
        return size[0] / size[1] if size is not None and size[1] > 0 else None

    def description(self) -> dict[str, Any]:
        """The plan's entry in the results. What is not known (yet), or makes no sense for the source, is None."""
        return {
            "requests": self.requests,
            "span_s": self.span_s,
            "rate_rps": self.rate_rps,
            "trace_span_s": None,
            "fingerprint": self.fingerprint,
            "timestamp_unit": None,
            "rows": None,
            "dropped": None,
            "clamped": None,
            **self._details(),
        }

    def _measured(self) -> tuple[int, float] | None:
        if self._size is None and self._countable and not self._counted:
            self._counted = True
            until_s = time.monotonic() + MEASURED_S
            for block in self:
                if not self._sized and (block.index[-1] >= MEASURED_ROWS or time.monotonic() > until_s):
                    break
        return self._size

    def _derived(self, source: Callable[[], Iterable[Block]], step: Mapping[str, Any], cut: bool = False) -> Plan:
        plan = Plan(
            source,
            identity={"of": self._identity, **step},
            sized=self._sized,
            endless=self.endless and not cut,
            details=self._details,
        )
        plan._countable = self._countable or cut
        plan._first = self._first
        return plan
