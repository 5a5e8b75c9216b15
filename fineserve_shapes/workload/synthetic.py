"""Synthetic: arrivals and lengths as a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fineserve_shapes.arrays import IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.arrivals import Arrivals
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.lengths import Lengths
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.prefixblocks import PrefixBlocks

PURPOSES = 3  # arrivals, lengths, prefixes: each has a stream of its own, so that changing one leaves the others


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Prompts of which a share begins with one of some prefixes, as with system prompts.

    share: of the requests, drawn independently. groups: how many prefixes, all equally frequent. tokens: length of a
    prefix. A prompt that is no longer than its prefix shares nothing, so that every prompt has a token of its own.
    """

    share: float
    groups: int
    tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(
                f"the share of requests with a prefix lies between 0 and 1, got {self.share} (--prefix-share)"
            )
        if self.groups < 1:
            raise InputError(f"prefixes come in at least one group, got {self.groups} (--prefix-groups)")
        if self.tokens < 1:
            raise InputError(f"a prefix has at least one token, got {self.tokens} (--prefix-length)")

    def sample(self, rng: np.random.Generator, input_tokens: IntArray) -> PrefixBlocks:
        """The prefixes of n requests with prompts of these lengths, shape (n,)."""
        group = rng.integers(self.groups, size=len(input_tokens))
        shares = (rng.random(len(input_tokens)) < self.share) & (input_tokens > self.tokens)
        return PrefixBlocks(np.concatenate(([0], np.cumsum(shares))), group[shares], self.tokens)

    def identity(self) -> list[float]:
        """Plain values, for a fingerprint."""
        return [self.share, self.groups, self.tokens]


def synthetic_plan(
    arrivals: Arrivals,
    lengths: Lengths,
    *,
    seed: int,
    identity: Mapping[str, Any],
    endless: bool,
    details: Mapping[str, Any],
    prefixes: SharedPrefixes | None = None,
) -> Plan:
    """The plan of requests that come as `arrivals` say, each as long as `lengths` say.

    Parameters
    ----------
    seed: of everything random. The same seed gives the same plan, byte for byte.
    identity: plain values that decide what arrivals and lengths are; the seed is added here.
    endless: whether the arrivals have no end.
    details: entries for the plan's description.
    prefixes: what prompts share; None for nothing.
    """

    def source() -> Iterator[Block]:
        arrivals_rng, lengths_rng, prefixes_rng = map(
            np.random.default_rng, np.random.SeedSequence(seed).spawn(PURPOSES)
        )
        for due_s in arrivals.blocks(arrivals_rng):
            inputs, outputs = lengths.sample(lengths_rng, len(due_s))
            # the plan numbers its requests itself
            zeros = np.zeros(len(due_s), dtype=np.int64)
            shared = None if prefixes is None else prefixes.sample(prefixes_rng, inputs)
            yield Block(zeros, due_s, inputs, outputs, zeros, shared)

    identity = {**identity, "seed": seed, "prefixes": None if prefixes is None else prefixes.identity()}
    return Plan(source, identity=identity, endless=endless, details=lambda: details)
