"""Ring: a text cut into pieces of known cost, from which runs of any cost are taken at any place."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from fineserve_shapes.arrays import IntArray

T = TypeVar("T", str, bytes)


class Ring(Generic[T]):
    """Pieces laid end to end and closed to a ring: what goes past the end goes on at the beginning.

    A piece is what is never cut: a word with the white space before it, or a rendered token id. A run is one slice of
    the joined text, so taking it costs a binary search and a copy, whatever its length.

    pieces: at least one, each with its cost in tokens, at least 1.
    starts: positions among the pieces at which a run may begin; None for all.
    """

    def __init__(self, pieces: Sequence[T], costs: IntArray, starts: IntArray | None = None) -> None:
        empty = pieces[0][:0]
        self.content: T = empty.join(pieces)
        self._cuts = _numbers(np.concatenate(([0], np.cumsum([len(piece) for piece in pieces]))))
        self._costs = _numbers(np.concatenate(([0], np.cumsum(costs))))
        self._starts = _numbers(np.arange(len(pieces)) if starts is None else starts)

    def run(self, place: int, cost: int) -> tuple[T, int]:
        """The longest run that costs at most so much, and what it costs; `place`, any number, picks where it begins."""
        start = self._starts[place % len(self._starts)]
        before, lap_cost = self._costs[start], self._costs[-1]
        laps, rest = divmod(before + cost, lap_cost)
        end = bisect_right(self._costs, rest) - 1
        spent = laps * lap_cost + self._costs[end] - before
        first, last = self._cuts[start], self._cuts[end]
        if laps == 0:
            return self.content[first:last], spent
        return self.content[first:] + self.content * (laps - 1) + self.content[:last], spent


def _numbers(values: IntArray) -> array[int]:
    """The same, to be taken one by one: that is where arrays of NumPy are slow."""
    return array("q", values.astype(np.int64).tobytes())
