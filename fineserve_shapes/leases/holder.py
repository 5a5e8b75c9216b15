"""The worker's side of leases: rows to send, and what to tell the master. See lease.py for why no row is sent twice."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from fineserve_shapes.leases.lease import FENCE_S, RESEND_S, Batch, Lease, Report, Row
from fineserve_shapes.leases.slots import NO_LOAD, Load
from fineserve_shapes.outcome import OUTCOMES


class LeaseHolder:
    """The worker's side: rows to send, and what to tell the master.

    fenced: whether a master that fell silent may have passed the rows on. Not so within one process, where the book
    must have been told to wait for ever (`silence_s`).
    """

    def __init__(self, *, fenced: bool = True, fence_s: float = FENCE_S, resend_s: float = RESEND_S) -> None:
        self._fence_s = fence_s if fenced else float("inf")
        self._resend_s = resend_s
        self._epoch = -1
        self._leases = 0
        self._seen_s = float("-inf")
        self._heap: list[Row] = []
        self._done: list[int] = []
        self._outcomes: list[int] = []
        self._dropped: list[tuple[int, int]] = []
        self._batches: deque[tuple[float, Batch]] = deque()  # not confirmed: (when sent last, batch)
        self._next_batch = 0

    def __len__(self) -> int:
        """Rows held and not yet sent."""
        return len(self._heap)

    @property
    def next_due_s(self) -> float | None:
        """When the next row falls due."""
        return self._heap[0].due_s if self._heap else None

    def due(self, now_s: float) -> int:
        """Rows that should have been sent by now."""
        return sum(row.due_s <= now_s for row in self._heap)

    @property
    def settled(self) -> bool:
        """Whether the master has confirmed all there is to report."""
        return not (self._heap or self._done or self._dropped or self._batches)

    @property
    def unconfirmed(self) -> bool:
        """Whether there are reports that the master has not confirmed."""
        return bool(self._batches)

    @property
    def seen_s(self) -> float:
        """When this worker made the report that the master had seen by its last word; minus infinity before any."""
        return self._seen_s

    def lease(self, lease: Lease) -> Sequence[Row]:
        """Take a lease; the rows that are new come back."""
        if lease.epoch > self._epoch:
            self.void()  # the master had given this worker up
            self._epoch, self._leases, self._seen_s = lease.epoch, 0, float("-inf")
        if lease.epoch < self._epoch:
            return ()
        self._seen_s = max(self._seen_s, lease.seen_s)
        while self._batches and self._batches[0][1].number < lease.batches:
            self._batches.popleft()
        if lease.number != self._leases:
            return ()  # a sign of life, a lease taken already, or one too early: the missing one comes again first
        self._leases += 1
        for row in lease.rows:
            heapq.heappush(self._heap, row)
        return lease.rows

    def take_due(self, now_s: float) -> Row | None:
        """The next row if it is due and still this worker's to send: from here on it counts as sent."""
        if not self._heap or self._heap[0].due_s > now_s:
            return None
        if now_s - self._seen_s > self._fence_s:
            self.void()
            return None
        return heapq.heappop(self._heap)

    def void(self) -> None:
        """Give back all that is not sent yet."""
        self._dropped += [(row.request, self._epoch) for row in self._heap]
        self._heap = []

    def done(self, request: int, outcome: str) -> None:
        """A row that was taken has ended."""
        self._done.append(request)
        self._outcomes.append(OUTCOMES.index(outcome))

    def report(
        self,
        now_s: float,
        payload: Any = None,
        *,
        late_s: float = 0.0,
        leaving: bool = False,
        load: Load = NO_LOAD,
    ) -> Report:
        """What to tell the master now: a new batch if anything happened, and old ones that stay unconfirmed."""
        again = bool(self._batches) and now_s - self._batches[0][0] > self._resend_s
        if again:
            self._batches = deque((now_s, batch) for _, batch in self._batches)
        batches = [batch for _, batch in self._batches] if again else []
        if self._done or self._dropped or payload is not None:
            dropped = np.array(self._dropped, dtype=np.int64).reshape(-1, 2)
            batch = Batch(
                self._next_batch,
                np.array(self._done, dtype=np.int64),
                np.array(self._outcomes, dtype=np.uint8),
                dropped[:, 0],
                dropped[:, 1],
                payload,
            )
            self._next_batch += 1
            self._batches.append((now_s, batch))
            batches.append(batch)
            self._done, self._outcomes, self._dropped = [], [], []
        return Report(max(self._epoch, 0), now_s, self._leases, batches, late_s, leaving, load)
