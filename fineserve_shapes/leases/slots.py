"""Slots: how many requests each worker may have in flight, so that there are never more than so many in all.

What may live here: the division of a number among workers that hear of it late. No sockets, no clock: time is an
argument.

Each worker has a limit of its own, and the master's promise to it is the most that it may have in flight by what the
master knows. The promises never add up to more than the total. A limit is raised only out of what is not promised. It
is lowered by a numbered word to the worker; the promise follows when a report of the worker bears that number: from
then on it has no more in flight than its limit, or than that report says (those end, and no new ones begin).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp

LOST_S = 10.0  # a silent worker's requests count as in flight for so long; it may be asleep, and they alive
SPARE_ROWS = 50


@dataclass(frozen=True, slots=True)
class Limit:
    """The message to a worker: its number, which grows, and how many requests the worker may have in flight."""

    number: int
    limit: int


@dataclass(frozen=True, slots=True)
class Load:
    """A worker's report. number: of the newest limit that it has; waiting: rows that are due and wait for a slot."""

    number: int = -1
    in_flight: int = 0
    waiting: int = 0


NO_LOAD = Load()


@dataclass(slots=True)
class _Share:
    heard_s: float
    limit: Limit
    promised: int = 0
    load: Load = NO_LOAD
    ends_rps: float = 0.0


class Slots:
    """Divides `total` slots among the workers, by what they need."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._shares: dict[str, _Share] = {}

    @property
    def promised(self) -> int:
        """Requests that may be in flight now, at most."""
        return sum(share.promised for share in self._shares.values())

    def limit(self, worker: str) -> Limit:
        """What to tell a worker, with every message."""
        return self._shares[worker].limit

    def hungry(self, worker: str) -> bool:
        """Whether it should get rows: it has slots, and few rows wait for them already.

        More wait only by what it may need before the next rows come: what waits on a worker is lost with it.
        """
        share = self._shares[worker]
        return share.limit.limit > 0 and share.load.waiting < share.limit.limit + share.ends_rps + SPARE_ROWS

    def reported(self, worker: str, load: Load, ends: int, now_s: float) -> None:
        """Take a worker's report, and how many requests ended on it since its last one."""
        share = self._shares.get(worker)
        if share is None:  # it had been taken for lost
            share = self._shares[worker] = _Share(now_s, Limit(load.number + 1, 0), promised=load.in_flight)
        share.ends_rps = share.ends_rps * exp(min(share.heard_s - now_s, 0.0)) + ends
        share.heard_s = max(share.heard_s, now_s)
        share.load = load
        if load.number == share.limit.number:
            share.promised = min(share.promised, max(share.limit.limit, load.in_flight))

    def divide(self, workers: Iterable[str], now_s: float) -> None:
        """Move slots to where they are needed, among these workers; call it every now and then."""
        names = list(workers)
        for worker in names:
            self._shares.setdefault(worker, _Share(now_s, Limit(0, 0))).heard_s = now_s
        for worker, share in list(self._shares.items()):
            if worker in names:
                continue
            if now_s - share.heard_s > LOST_S:
                del self._shares[worker]
            elif share.limit.limit:
                share.limit = Limit(share.limit.number + 1, 0)
        needs = {worker: self._shares[worker].load for worker in names}
        targets = _fair(self.total, {worker: load.in_flight + load.waiting for worker, load in needs.items()})
        wanting = any(target > self._shares[worker].limit.limit for worker, target in targets.items()
                      if needs[worker].waiting or not self._shares[worker].limit.limit)  # fmt: skip
        for worker, target in targets.items():
            share = self._shares[worker]
            if target < share.limit.limit and wanting:
                share.limit = Limit(share.limit.number + 1, target)
        for worker in sorted(names, key=lambda name: self._shares[name].limit.limit - targets[name]):
            share = self._shares[worker]
            # a worker that has not confirmed a lower limit yet may take that number as promised already
            limit = min(targets[worker], share.promised + self.total - self.promised)
            if limit > share.limit.limit:
                share.limit = Limit(share.limit.number + 1, limit)
                share.promised = max(share.promised, limit)


def _fair(total: int, needs: dict[str, int]) -> dict[str, int]:
    """Whole numbers that add up to the total: to each what it needs, as far as equal parts allow; what is left, evenly."""
    found: dict[str, int] = {}
    left = total
    for place, (worker, need) in enumerate(sorted(needs.items(), key=lambda item: item[1])):
        found[worker] = min(max(need, 1), -(-left // (len(needs) - place)))
        left -= found[worker]
    for place, worker in enumerate(found):
        found[worker] += left // len(found) + (place < left % len(found))
    return found
