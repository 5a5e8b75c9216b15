"""Dealing: which worker gets which row, in proportion to what each can take.

What may live here: plain arithmetic over names and numbers. No leases, no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

LATE_S = 0.05
LEAST_SHARE = 0.05
RECOVERY_PER_S = 0.05
PATIENCE_S = 3.5  # rows are leased some 3 s ahead: what a cut brings is not to be seen sooner

T = TypeVar("T")


@dataclass(slots=True)
class Pace:
    """The share of the work that a worker gets, 1 unless it falls behind.

    A worker whose rows leave on average more than LATE_S late gets half of what it got, and no second cut before the
    first can have shown; while its rows leave on time its share grows again by RECOVERY_PER_S. It never falls to
    nothing: what a worker can do shows only where it has something to do.
    """

    share: float = 1.0
    _patient_until_s: float = float("-inf")
    _at_s: float | None = None

    def reported(self, late_s: float, now_s: float) -> None:
        """A worker says how late its rows have left lately, on average."""
        elapsed_s = 0.0 if self._at_s is None else max(now_s - self._at_s, 0.0)
        self._at_s = now_s
        if late_s <= LATE_S:
            self.share = min(self.share + RECOVERY_PER_S * elapsed_s, 1.0)
        elif now_s >= self._patient_until_s:
            self.share = max(self.share / 2, LEAST_SHARE)
            self._patient_until_s = now_s + PATIENCE_S


class Dealer:
    """Deals things in proportion to shares, evenly spread: stride scheduling.

    Each name has a place in virtual time; the first in line gets the next thing and moves back by 1 / share. Source:
    Waldspurger and Weihl, "Stride scheduling", 1995.
    """

    def __init__(self) -> None:
        self._places: dict[str, float] = {}

    def deal(self, things: Sequence[T], shares: Mapping[str, float]) -> dict[str, list[T]]:
        """What each name gets, in order; names with a share of 0 get nothing, and someone must have more."""
        hands: dict[str, list[T]] = {name: [] for name, share in shares.items() if share > 0}
        known = [self._places[name] for name in hands if name in self._places]
        first = min(known, default=0.0)  # who is new or was away gets no arrears
        line = [(max(self._places.get(name, first) - first, 0.0), order, name) for order, name in enumerate(hands)]
        heapq.heapify(line)
        for thing in things:
            place, order, name = line[0]
            hands[name].append(thing)
            heapq.heapreplace(line, (place + 1 / shares[name], order, name))
        self._places = {name: place for place, _, name in line}
        return hands
