"""Worker: one process that sends what the master leases to it, and says what became of it."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import numpy as np
from gevent.event import Event
from gevent.pool import Pool

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.engine.dispatch import Dispatcher
from fineserve_shapes.engine.loopdelay import LoopDelay
from fineserve_shapes.engine.performing import Performer
from fineserve_shapes.engine.recording import NOT_TOLD, record_of
from fineserve_shapes.engine.spool import Spool
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases import messages
from fineserve_shapes.leases.clock import ClockEstimate
from fineserve_shapes.leases.holder import LeaseHolder
from fineserve_shapes.leases.lease import Row
from fineserve_shapes.machine import machine
from fineserve_shapes.measure.measurements import Outbox
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.measure.records import Records
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.text import shorten
from fineserve_shapes.timer import give_way

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 0.2
PING_EVERY_S = 1.0
FIRST_PINGS = 20
FIRST_PING_EVERY_S = 0.02
HELLO_EVERY_S = 0.5
WARM_UP_TOGETHER = 16
CONFIRM_S = 2.0  # for the master to confirm the last report of a worker that leaves
GONE_S = 5.0  # a master that has not been heard for so long

Send = Callable[[str, dict[str, Any]], None]


class Worker:
    """The worker's side of runs, one after the other.

    send: hands a message to the master. local: master and worker are one process, so there is one clock and no fence.
    finished: called when a run has been drained, before the last report leaves. name: of this worker, for the file in
    which it leaves its records if the master is gone. clock: of this process, seconds.
    """

    def __init__(
        self,
        send: Send,
        *,
        local: bool,
        finished: Callable[[], None],
        name: str = "local",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock_s = clock
        self._send = send
        self._local = local
        self._name = name
        self._finished = finished
        self._clock = ClockEstimate(same_clock=local)
        self._performer: Performer | None = None
        self._greenlets: list[gevent.Greenlet] = []
        self._run: str | None = None
        self._start_s = 0.0  # of the run, on the master's clock
        self._holder = LeaseHolder(fenced=not local)
        self._dispatcher: Dispatcher | None = None
        self._draining = self._leaving = self._dismissed = False
        self._drained = Event()
        self._outbox = Outbox()
        self._told: dict[int, tuple[float, float]] = {}  # sent and first token, of requests that have not ended
        self._unshown: list[tuple[Records, FloatArray]] = []
        self._in_flight: Counter[int] = Counter()  # by stream
        self._loop_delay: LoopDelay | None = None
        self._spool: Spool | None = None

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return self._dispatcher.in_flight if self._dispatcher else 0

    def start(self, performer: Performer) -> None:
        """A test starts: get ready, and tell the master until it answers."""
        self.stop()
        self._performer = performer
        self._loop_delay = LoopDelay()
        self._greenlets = [gevent.spawn(self._introduce, performer)]
        if not self._local:
            self._greenlets.append(gevent.spawn(self._ping))

    def stop(self) -> None:
        """The test is over, whatever is still going on."""
        self._end_run(timeout_s=0)
        self._end_spool()
        gevent.killall(self._greenlets)
        self._greenlets = []
        gc.unfreeze()
        self._run = self._dispatcher = None
        if self._loop_delay is not None:
            self._loop_delay.stop()
            self._loop_delay = None
        if self._performer is not None:
            self._performer.close()
            self._performer = None

    def leave(self, timeout_s: float) -> None:
        """This process is to end: take no more work, give back what is not sent, and wait so long for the rest. Blocks.

        May be called again, with less time, to cut it short.
        """
        self._leaving = True
        self._end_run(timeout_s)
        until_s = self._clock_s() + CONFIRM_S
        while self._spool is not None and self._holder.unconfirmed and self._clock_s() < until_s:
            gevent.sleep(0.05)

    # messages from the master

    def on_begin(self, data: Any) -> None:
        """The run has a start: from now on there may be leases."""
        run = messages.data_field(data, "run", str)
        if self._performer is None or run == self._run or self._leaving:
            return
        self._end_run(timeout_s=0)
        self._end_spool()
        self._run, self._start_s = run, messages.data_field(data, "start_s", float)
        self._draining = self._dismissed = False
        self._drained = Event()
        self._holder = LeaseHolder(fenced=not self._local)
        self._told = {}
        self._outbox = Outbox(
            messages.data_field(data, "warmup_s", float), bool(messages.data_field(data, "token_times", int))
        )
        if messages.data_field(data, "logged", int) and not self._local:
            self._spool = Spool(run, self._name, self._outbox)
        self._in_flight = Counter()
        if self._loop_delay is not None:
            self._loop_delay.take()  # getting ready is no part of the run
        self._dispatcher = Dispatcher(self._holder, self._performer.prepare, self._perform, self._now_s)
        self._greenlets.append(gevent.spawn(self._report_regularly, run))

    def on_warm_up(self, data: Any) -> None:
        """Send extra requests before the run begins, and say when all have ended. Blocks as long."""
        run, performer = messages.data_field(data, "run", str), self._performer
        if performer is None or run == self._run:
            return
        pool = Pool(WARM_UP_TOGETHER)
        sent = [pool.spawn(performer.warm_up, run, row) for row in messages.unpack_rows(data)]
        if not pool.join(timeout=messages.data_field(data, "timeout_s", float)):
            pool.kill(timeout=5)
        results = [greenlet.value for greenlet in sent]
        errors = [result.error or result.outcome for result in results
                  if isinstance(result, Result) and result.outcome != "ok"]  # fmt: skip
        ended = sum(isinstance(result, Result) for result in results)
        self._send(messages.WARM, {"run": run, "requests": len(sent), "ok": ended - len(errors),
                                   "error": errors[0] if errors else None})  # fmt: skip

    def on_lease(self, data: Any) -> None:
        """Rows to send, or a sign of life."""
        if messages.data_field(data, "run", str) != self._run or self._dispatcher is None:
            return
        lease = messages.unpack_lease(data)
        rows = self._holder.lease(lease)
        self._dispatcher.limit(lease.limit)
        if self._draining:
            self._holder.void()
        else:
            self._dispatcher.add(rows)

    def on_drain(self, data: Any) -> None:
        """Send nothing more, wait for what is in flight, and report all of it. Blocks as long."""
        if messages.data_field(data, "run", str) == self._run:
            self._end_run(messages.data_field(data, "timeout_s", float))

    def on_end(self, data: Any) -> None:
        """The run is over, and all that is known of it is where it belongs."""
        if messages.data_field(data, "run", str) == self._run:
            self._dismissed = True

    def on_pong(self, data: Any) -> None:
        """The master's answer to a ping."""
        received_s = self._clock_s()
        sent_s, master_s = messages.data_field(data, "sent_s", float), messages.data_field(data, "master_s", float)
        same_clock = messages.data_field(data, "machine", str) == machine()
        self._clock.answered(sent_s, master_s, received_s, same_clock=same_clock)

    # the run

    @property
    def _shift_s(self) -> float:
        """The run's time less this process's."""
        return self._clock.offset_s - self._start_s

    def _now_s(self) -> float:
        return self._clock_s() + self._shift_s

    def _introduce(self, performer: Performer) -> None:
        try:
            facts: dict[str, Any] = performer.open()
        except InputError as error:
            facts = {"error": str(error)}
        except Exception as error:  # of a user class, say: the master must not wait for this worker
            logger.exception("getting ready failed")
            facts = {"error": f"a worker could not get ready: {type(error).__name__}: {error}"}
        facts["machine"] = machine()
        gc.collect()  # once, before the run, and then never again over all that imports have made: it takes 0.1 s
        gc.freeze()
        while not self._local and not self._clock_is_known and "error" not in facts:
            gevent.sleep(FIRST_PING_EVERY_S)
        while True:
            if self._run is None and not self._leaving:
                self._send(messages.HELLO, {**facts, "uncertainty_s": self._clock.uncertainty_s})
            gevent.sleep(HELLO_EVERY_S)

    @property
    def _clock_is_known(self) -> bool:
        return self._clock.pings >= FIRST_PINGS or self._clock.uncertainty_s == 0

    def _ping(self) -> None:
        while True:
            self._send(messages.PING, {"sent_s": self._clock_s()})
            gevent.sleep(PING_EVERY_S if self._clock_is_known else FIRST_PING_EVERY_S)

    def _perform(self, row: Row, prepared: Any, held_s: float) -> None:
        assert self._performer is not None
        assert self._run is not None
        now_s = self._now_s()
        self._outbox.sent(row.stream, now_s, now_s - row.due_s - held_s)
        self._in_flight[row.stream] += 1
        try:
            result = self._performer.perform(self._run, row, prepared)
        finally:
            self._in_flight[row.stream] -= 1
        self._holder.done(row.request, result.outcome)
        error = None if result.outcome == "ok" else (result.outcome, shorten(result.error or ""))
        shift_s = self._shift_s
        told = self._told.pop(row.request, NOT_TOLD)
        self._outbox.add(record_of(row, result, shift_s, held_s, told), result.chunk_times_s + shift_s, error)

    def _report_regularly(self, run: str) -> None:
        while run == self._run:
            self._report(self._take())
            give_way()
            self._show()
            gevent.sleep(REPORT_EVERY_S)

    def _take(self) -> dict[str, Any] | None:
        """What was measured since the last report, packed; it is still to be shown here."""
        shift_s = self._shift_s
        for request, sent_s, first_token_s in () if self._performer is None else self._performer.first_tokens():
            told = self._told[request.index] = sent_s + shift_s, first_token_s + shift_s
            self._outbox.first(request.stream, request.due_s, *told, request.input_tokens)
        if (taken := self._outbox.take()) is None:
            return None
        rows, itl_s, payload = taken
        self._unshown.append((rows, itl_s))
        if self._spool is not None:
            self._spool.add(payload)
        return payload

    def _report(self, payload: dict[str, Any] | None) -> None:
        assert self._dispatcher is not None
        report = self._holder.report(
            self._now_s(),
            payload,
            late_s=self._dispatcher.take_late_s(),
            leaving=self._draining or self._leaving,
            load=self._dispatcher.load,
        )
        delays_s = np.empty(0) if self._loop_delay is None else self._loop_delay.take()
        facts = {
            "run": self._run,
            "in_flight": list(self._in_flight.items()),
            "tokens_come": [] if self._performer is None else list(self._performer.tokens_come().items()),
            "offset_s": self._clock.offset_s,
            "uncertainty_s": self._clock.uncertainty_s,
            "loop_delays": delays_s.tobytes(),
            "reads": (Reads() if self._performer is None else self._performer.take_reads()).pack(),
        }
        self._send(messages.REPORT, messages.pack_report(report) | facts)

    def _show(self) -> None:
        """Hand on what was reported, to be shown in this process."""
        unshown, self._unshown = self._unshown, []
        for rows, itl_s in unshown:
            if self._performer is not None:
                self._performer.measured(rows, itl_s)

    def _end_run(self, timeout_s: float) -> None:
        if self._dispatcher is None:
            return
        if self._draining and timeout_s > 0:
            self._drained.wait(timeout_s)  # for another reason: once is enough
            return
        first, self._draining = not self._draining, True
        self._dispatcher.drain(timeout_s)
        payload = self._take()
        self._show()
        if first:
            self._finished()
        self._report(payload)
        self._drained.set()

    def _end_spool(self) -> None:
        """Unless the master has said that all is written, what it was told is left in a file: it may be gone."""
        spool, self._spool = self._spool, None
        if spool is None:
            return
        with contextlib.closing(spool):
            heard = self._now_s() - self._holder.seen_s < GONE_S
            if not self._holder.unconfirmed and (self._dismissed or (self._leaving and heard)):
                return
            spool.leave()
