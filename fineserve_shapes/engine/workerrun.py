"""Worker run: what a worker holds for one run. The next run has another one, so that nothing has to be set back."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from gevent.event import Event

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.engine.dispatch import Dispatcher
from fineserve_shapes.engine.performing import Performer
from fineserve_shapes.engine.recording import NOT_TOLD, record_of
from fineserve_shapes.engine.spool import Spool
from fineserve_shapes.leases.beginning import Beginning
from fineserve_shapes.leases.clock import ClockEstimate
from fineserve_shapes.leases.holder import LeaseHolder
from fineserve_shapes.leases.lease import Lease, Row
from fineserve_shapes.leases.messages import pack_report
from fineserve_shapes.leases.standing import Standing
from fineserve_shapes.measure.measurements import Outbox
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.measure.records import Records
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.text import shorten

GONE_S = 5.0  # a master that has not been heard for so long


class WorkerRun:
    """One run on a worker, from its beginning to its last report.

    clock: this process's. offset_s: the master's clock less that, as it is known by now. local: the master is in this
    process, which keeps no fence and no spool. worker: its name, for the file in which it may leave its records.
    """

    def __init__(
        self,
        beginning: Beginning,
        performer: Performer,
        clock: Callable[[], float],
        offset_s: Callable[[], float],
        *,
        local: bool,
        worker: str,
    ) -> None:
        self.id = beginning.run
        self._start_s = beginning.start_s
        self._performer = performer
        self._clock_s = clock
        self._offset_s = offset_s
        self.holder = LeaseHolder(fenced=not local)
        self._outbox = Outbox(beginning.warmup_s, beginning.token_times)
        self._spool = Spool(self.id, worker, self._outbox, beginning.names) if beginning.logged and not local else None
        self._told: dict[int, tuple[float, float]] = {}  # sent and first token, of requests that have not ended
        self._unshown: list[tuple[Records, dict[int, FloatArray]]] = []
        self._in_flight: Counter[int] = Counter()  # by stream
        self._tokens_before = dict(performer.tokens_come())  # of runs before
        performer.take_reads()  # likewise
        self._reads = Reads()  # that are not reported yet
        self.draining = self.dismissed = False
        self._drained = Event()
        self._dispatcher = Dispatcher(self.holder, performer.prepare, self._perform, lambda: self.now_s)

    @property
    def shift_s(self) -> float:
        """The run's time less this process's."""
        return self._offset_s() - self._start_s

    @property
    def now_s(self) -> float:
        """The run's time."""
        return self._clock_s() + self.shift_s

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return self._dispatcher.in_flight

    @property
    def waiting(self) -> int:
        """Requests that have ended since the last report."""
        return len(self._outbox)

    @property
    def keeps_records(self) -> bool:
        """Whether there are records that the master may not have."""
        return self._spool is not None and bool(self.holder.unconfirmed)

    def lease(self, lease: Lease) -> None:
        """Rows to send, or a sign of life."""
        rows = self.holder.lease(lease)
        self._dispatcher.limit(lease.limit)
        if self.draining:
            self.holder.void()
        else:
            self._dispatcher.add(rows)

    def report(
        self, payload: dict[str, Any] | None, clock: ClockEstimate, loop_delays_s: FloatArray, *, leaving: bool
    ) -> dict[str, Any]:
        """What has come about since the last report, with what was taken of the measurements, packed.

        clock, loop_delays_s: of this process; see `Standing`.
        """
        self.take_reads()
        report = self.holder.report(
            self.now_s,
            payload,
            late_s=self._dispatcher.take_late_s(),
            leaving=self.draining or leaving,
            load=self._dispatcher.load,
        )
        come = {
            stream: tokens - self._tokens_before.get(stream, 0)
            for stream, tokens in self._performer.tokens_come().items()
        }
        standing = Standing(
            self.id, self._in_flight, come, clock.offset_s, clock.uncertainty_s, loop_delays_s,
            self._reads,
        )  # fmt: skip
        self._reads = Reads()
        return pack_report(report) | standing.pack()

    def work_up(self) -> None:
        """Work on what has come about so far for the next report, which is a single piece of work."""
        self._outbox.work_up()

    def take_reads(self) -> None:
        """Add up how late tokens were read, likewise."""
        self._reads.merge(self._performer.take_reads())

    def show(self) -> None:
        """Hand on what was reported, to be shown in this process."""
        unshown, self._unshown = self._unshown, []
        for rows, itl_s in unshown:
            self._performer.measured(rows, itl_s)

    def drain(self, timeout_s: float) -> bool:
        """Send nothing more, and wait for what is in flight. Blocks. Whether this call was the first, so that a last
        report is to follow; `drained` after it. Called again it waits for the first, or cuts it short (timeout 0)."""
        if self.draining and timeout_s > 0:
            self._drained.wait(timeout_s)
            return False
        self.draining = True
        self._dispatcher.drain(timeout_s)
        return True

    def drained(self) -> None:
        """The last report has been sent."""
        self._drained.set()

    def end_spool(self, *, leaving: bool) -> None:
        """Unless the master has said that all is written, what it was told is left in a file: it may be gone."""
        spool, self._spool = self._spool, None
        if spool is None:
            return
        with contextlib.closing(spool):
            heard = self.now_s - self.holder.seen_s < GONE_S
            if not self.holder.unconfirmed and (self.dismissed or (leaving and heard)):
                return
            spool.leave()

    def _perform(self, row: Row, prepared: Any, held_s: float) -> None:
        now_s = self.now_s
        self._outbox.sent(row.stream, now_s, row.due_s + held_s)
        self._in_flight[row.stream] += 1
        try:
            result = self._performer.perform(self.id, row, prepared)
        finally:
            self._in_flight[row.stream] -= 1
        self.holder.done(row.request, result.outcome)
        error = None if result.outcome == Outcome.OK else (result.outcome, shorten(result.error or ""))
        shift_s = self.shift_s
        told = self._told.pop(row.request, NOT_TOLD)
        self._outbox.add(record_of(row, result, shift_s, held_s, told), result.chunk_times_s + shift_s, error)

    def take(self) -> dict[str, Any] | None:
        """What was measured since the last report, packed; it is still to be shown here."""
        shift_s = self.shift_s
        for request, sent_s, first_token_s in self._performer.first_tokens():
            told = self._told[request.index] = sent_s + shift_s, first_token_s + shift_s
            self._outbox.first(request.stream.number, request.due_s, *told, request.input_tokens)
        if (taken := self._outbox.take()) is None:
            return None
        rows, itl_s, payload = taken
        self._unshown.append((rows, itl_s))
        if self._spool is not None:
            self._spool.add(payload)
        return payload
