"""The master's side of leases: the plan, who holds what, and the ledger. See lease.py for why no row is sent twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fineserve_shapes.leases.dealing import Dealer, Pace
from fineserve_shapes.leases.lease import (
    FENCE_S,
    HORIZON_S,
    LEASE_ROWS,
    RESEND_S,
    ROUNDING_S,
    SILENCE_S,
    Lease,
    Report,
    Row,
    block_of,
    rows_of,
)
from fineserve_shapes.leases.slots import Slots
from fineserve_shapes.measure.ledger import OUTCOMES, Ledgers
from fineserve_shapes.workload.block import Block


@dataclass(slots=True)
class _Member:
    """A worker as the master sees it."""

    seen_s: float
    epoch: int = 0
    alive: bool = True
    held: dict[int, Row] = field(default_factory=dict)
    unknown: dict[int, tuple[int, Row]] = field(default_factory=dict)  # with the epoch in which they were held
    given: int = 0  # leases with rows in this epoch
    unconfirmed: deque[tuple[int, float, Sequence[Row]]] = field(default_factory=deque)
    batches: int = 0
    pace: Pace = field(default_factory=Pace)
    leaving: bool = False


class LeaseBook:
    """The master's side: the plan, who holds what, and the ledger.

    blocks: the plan, ascending in due time.
    planned: how many rows the plan has where that is known, so that a stop can count the rest as unsent.
    mixed: whether to keep a ledger of each stream too.
    slots: divides the requests in flight among the workers, where there is a limit to them.
    """

    def __init__(
        self,
        blocks: Iterator[Block],
        planned: int | None = None,
        *,
        mixed: bool = False,
        slots: Slots | None = None,
        horizon_s: float = HORIZON_S,
        fence_s: float = FENCE_S,
        silence_s: float = SILENCE_S,
        resend_s: float = RESEND_S,
    ) -> None:
        self.ledgers = Ledgers(mixed=mixed)
        self.ledger = self.ledgers.total
        self.passed_on = 0  # rows leased anew because their worker fell silent or gave them back
        self.ignored = 0  # ends of rows that were not the worker's to send: 0, or a row has been sent twice
        self._planned = planned
        self._blocks = blocks
        self._block: Block | None = None
        self._at = 0
        self._exhausted = False
        self._stopped = False
        self._queue: list[Row] = []  # rows that came back
        self._fresh: list[Block] = []  # rows leased for the first time, until they are taken
        self._unsent: list[Row] = []  # rows that came back after the stop
        self._members: dict[str, _Member] = {}
        self._dealer = Dealer()
        self._slots = slots
        self._stepped_s = float("-inf")
        self._horizon_s, self._fence_s, self._silence_s, self._resend_s = horizon_s, fence_s, silence_s, resend_s

    @property
    def alive(self) -> list[str]:
        """Workers that get leases."""
        return [worker for worker, member in self._members.items() if member.alive]

    @property
    def closed(self) -> bool:
        """Whether every row of the plan has an outcome."""
        return (self._exhausted or self._stopped) and self.ledger.open == 0

    @property
    def leased_all(self) -> bool:
        """Whether every row of the plan has been given to a worker."""
        return self._exhausted and not self._queue

    def join(self, worker: str, now_s: float) -> None:
        """A worker is ready for work; one that was given up starts anew."""
        member = self._members.get(worker)
        if member is None:
            self._members[worker] = _Member(seen_s=now_s)
        elif not member.alive:
            member.alive, member.seen_s = True, now_s

    def leave(self, worker: str) -> None:
        """A worker is gone: rows that it may have sent become unknown, the rest goes to other workers."""
        member = self._members.get(worker)
        if member is None or not member.alive:
            return
        member.alive = False
        for request, row in member.held.items():
            if row.due_s > member.seen_s + self._fence_s + ROUNDING_S:
                self._take_back(row)
            else:
                member.unknown[request] = (member.epoch, row)
                self.ledgers.end("unknown", row.stream)
        member.held = {}
        member.epoch += 1
        member.given, member.unconfirmed = 0, deque()

    def step(self, now_s: float) -> list[tuple[str, Lease]]:
        """The messages that are due now: new leases, those to be sent again, and signs of life."""
        asleep = (
            now_s - self._stepped_s > self._silence_s / 2
        )  # the silence is ours: first hear what has come meanwhile
        self._stepped_s = now_s
        for worker, member in self._members.items():
            if member.alive and not asleep and now_s - member.seen_s > self._silence_s:
                self.leave(worker)
        workers = self.alive
        if self._slots is not None:
            self._slots.divide([worker for worker in workers if not self._members[worker].leaving], now_s)
        if not workers:
            return []
        messages: list[tuple[str, Lease]] = []
        for worker in workers:
            member = self._members[worker]
            if member.unconfirmed and now_s - member.unconfirmed[0][1] > self._resend_s:
                again = [(number, rows) for number, _, rows in member.unconfirmed]
                member.unconfirmed = deque((number, now_s, rows) for number, rows in again)
                messages += [(worker, self._lease(worker, number, rows)) for number, rows in again]
        shares = {worker: self._share(worker) for worker in workers}
        hands: dict[str, list[Row]] = {}
        if any(shares.values()):  # else all are leaving, or have enough: rows stay with the plan
            hands = self._dealer.deal(self._pull(now_s + self._horizon_s), shares)
        for worker in workers:
            member, hand = self._members[worker], hands.get(worker, [])
            for start in range(0, len(hand), LEASE_ROWS):
                part = hand[start : start + LEASE_ROWS]
                member.held.update((row.request, row) for row in part)
                member.unconfirmed.append((member.given, now_s, part))
                messages.append((worker, self._lease(worker, member.given, part)))
                member.given += 1
            if not hand:
                messages.append((worker, self._lease(worker, None, ())))
        return messages

    def report(self, worker: str, report: Report, now_s: float) -> list[Any]:
        """Take a worker's report; the payloads of the batches that are new come back, in order."""
        member = self._members.get(worker)
        if member is None:
            return []
        payloads = []
        ends = 0
        for batch in report.batches:
            if batch.number != member.batches:
                continue  # taken already, or one before it is missing: that one comes again first
            member.batches += 1
            ends += len(batch.done)
            for request, code in zip(batch.done.tolist(), batch.outcomes.tolist(), strict=True):
                self._end(member, request, OUTCOMES[code])
            for request, epoch in zip(batch.dropped.tolist(), batch.epochs.tolist(), strict=True):
                self._give_back(member, request, epoch)
            payloads.append(batch.payload)
        member.leaving |= report.leaving
        member.pace.reported(report.late_s, now_s)
        if self._slots is not None:
            self._slots.reported(worker, report.load, ends, now_s)
        if member.alive:
            member.seen_s = max(member.seen_s, report.at_s)
            if report.epoch == member.epoch:
                while member.unconfirmed and member.unconfirmed[0][0] < report.leases:
                    member.unconfirmed.popleft()
        elif now_s - report.at_s < self._fence_s:  # fresh, not the backlog of one that was paused
            member.alive, member.seen_s = True, report.at_s
        return payloads

    def stop(self) -> None:
        """Lease nothing more: what no worker holds is unsent, and what workers give back will be."""
        if self._stopped:
            return
        self._stopped = True
        if self._planned is not None:
            self.ledger.plan(self._planned - self.ledger.planned)
        held = sum(len(member.held) for member in self._members.values())
        self._unsent, self._queue = self._queue, []
        self.ledger.end("unsent", self.ledger.open - held)  # what was never leased has its stream's part in `unsent`
        for row in self._unsent:
            self.ledgers.end_of_stream("unsent", row.stream)

    def give_up(self) -> None:
        """The time for last reports is over: what is still held is unknown."""
        self.stop()
        for member in self._members.values():
            for row in member.held.values():
                self.ledgers.end("unknown", row.stream)
            member.unknown.update((request, (member.epoch, row)) for request, row in member.held.items())
            member.held = {}

    def _lease(self, worker: str, number: int | None, rows: Sequence[Row]) -> Lease:
        member = self._members[worker]
        limit = None if self._slots is None else self._slots.limit(worker)
        return Lease(member.epoch, member.seen_s, member.batches, number, rows, limit)

    def _share(self, worker: str) -> float:
        """Of new rows, in proportion to the other workers' shares."""
        member = self._members[worker]
        if member.leaving or not (self._slots is None or self._slots.hungry(worker)):
            return 0.0
        return member.pace.share

    def take_fresh(self) -> list[Block]:
        """Rows of the plan that have been leased for the first time since the last call, in order."""
        fresh, self._fresh = self._fresh, []
        return fresh

    @property
    def unknown(self) -> list[tuple[str, Row]]:
        """Rows that stand as unknown now, and their worker: after `give_up` for good."""
        return [(worker, row) for worker, member in self._members.items() for _, row in member.unknown.values()]

    def unsent(self) -> Iterator[Block]:
        """Rows that ended as unsent, in blocks: those that came back, then those of the plan that were never leased.

        To be asked for once, after the stop. The rest of a plan whose size is not known is none of the ledger's.
        """
        if self._unsent:
            yield block_of(self._unsent)
        while self._planned is not None and not self._exhausted:
            if self._block is None:
                self._block, self._at = next(self._blocks, None), 0
                if self._block is None:
                    self._exhausted = True
                    return
            block, self._block = self._block.take(slice(self._at, None)), None
            self.ledgers.plan_of_streams(block.stream)
            for stream, count in zip(*np.unique(block.stream, return_counts=True), strict=True):
                self.ledgers.end_of_stream("unsent", int(stream), int(count))
            yield block

    def _pull(self, until_s: float) -> list[Row]:
        """Rows that came back, then those of the plan due until then."""
        rows, self._queue = self._queue, []
        while not (self._stopped or self._exhausted):
            if self._block is None:
                self._block, self._at = next(self._blocks, None), 0
                if self._block is None:
                    self._exhausted = True
                    break
            block = self._block
            end = int(np.searchsorted(block.due_s, until_s, side="right"))
            if end > self._at:
                part = block.take(slice(self._at, end))
                rows += rows_of(part)
                self._fresh.append(part)
                self.ledgers.plan(part.stream)
                self._at = end
            if end < len(block):
                break
            self._block = None
        return rows

    def _take_back(self, row: Row) -> None:
        if self._stopped:
            self.ledgers.end("unsent", row.stream)
            self._unsent.append(row)
        else:
            self._queue.append(row)
            self.passed_on += 1

    def _end(self, member: _Member, request: int, outcome: str) -> None:
        row = member.held.pop(request, None)
        if row is None:
            if request not in member.unknown:
                self.ignored += 1
                return
            row = member.unknown.pop(request)[1]
            self.ledgers.reopen("unknown", row.stream)
        self.ledgers.end(outcome, row.stream)

    def _give_back(self, member: _Member, request: int, epoch: int) -> None:
        if epoch == member.epoch and request in member.held:
            self._take_back(member.held.pop(request))
        elif member.unknown.get(request, (None,))[0] == epoch:
            row = member.unknown.pop(request)[1]
            self.ledgers.reopen("unknown", row.stream)
            self._take_back(row)
        # else it has been passed on already
