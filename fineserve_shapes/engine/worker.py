"""Worker: one process that sends what the master leases to it, and says what became of it."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
import numpy as np
from gevent.pool import Pool

from fineserve_shapes.engine.loopdelay import LoopDelay
from fineserve_shapes.engine.performing import Performer
from fineserve_shapes.engine.workerrun import WorkerRun
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases import messages
from fineserve_shapes.leases.beginning import Beginning
from fineserve_shapes.leases.clock import ClockEstimate
from fineserve_shapes.leases.messages import Warmed
from fineserve_shapes.machine import machine
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.timer import wait_for_a_gap

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 0.2
"""A master on another machine also hears by it that the worker is alive, and gives up one that is silent for a second."""
LOCAL_PAUSES, MANY_RECORDS = 3, 60
"""Within one process a report comes after so many such pauses, or earlier where there is so much to tell: one that says
little costs nearly as much as others do, and one that says much holds up what is due."""
REPORT_TAKES_S, PIECE_TAKES_S = 0.003, 0.0015
"""What a report takes in one piece, and what is done before and after it."""
PING_EVERY_S = 1.0
FIRST_PINGS = 20
FIRST_PING_EVERY_S = 0.02
HELLO_EVERY_S = 0.5
COLLECT_AT = 50_000
"""So many more objects than at the last collection bring on the next: by Python's 700 it comes every second or two, and
goes over all that is in flight, 20 ms at 500 requests/s, in which nothing is sent or read; and while getting ready."""
SWITCH_S = 0.0005
"""For so long a thread that writes the log, or reads a trace, keeps the interpreter to itself while it is wanted here; by
Python's 5 ms each of its turns would hold up what is due."""
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
        self._run: WorkerRun | None = None
        self._leaving = False
        self._tests = 0  # that have got ready
        self._gc_thresholds = gc.get_threshold()
        self._switch_s = sys.getswitchinterval()
        self._loop_delay: LoopDelay | None = None

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return self._run.in_flight if self._run else 0

    def start(self, performer: Performer) -> None:
        """A test starts: get ready, and tell the master until it answers."""
        self.stop()
        self._performer = performer
        self._loop_delay = LoopDelay()
        gc.set_threshold(COLLECT_AT, *self._gc_thresholds[1:])
        self._greenlets = [gevent.spawn(self._introduce, performer)]
        if not self._local:
            self._greenlets.append(gevent.spawn(self._ping))

    def stop(self) -> None:
        """The test is over, whatever is still going on."""
        self._end_run()
        gevent.killall(self._greenlets)
        self._greenlets = []
        gc.unfreeze()
        gc.set_threshold(*self._gc_thresholds)
        sys.setswitchinterval(self._switch_s)
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
        run = self._run
        if run is None:
            return
        self._drain(run, timeout_s)
        until_s = self._clock_s() + CONFIRM_S
        while run.keeps_records and self._clock_s() < until_s:
            gevent.sleep(0.05)

    # messages from the master

    def on_begin(self, data: Any) -> None:
        """The run has a start: from now on there may be leases."""
        beginning = Beginning.unpack(data)
        if self._performer is None or (self._run and beginning.run == self._run.id) or self._leaving:
            return
        self._end_run()
        if self._loop_delay is not None:
            self._loop_delay.take()  # getting ready is no part of the run
        self._run = run = WorkerRun(
            beginning,
            self._performer,
            self._clock_s,
            lambda: self._clock.offset_s,
            local=self._local,
            worker=self._name,
        )
        self._greenlets.append(gevent.spawn(self._report_regularly, run))

    def on_warm_up(self, data: Any) -> None:
        """Send extra requests before the run begins, and say when all have ended. Blocks as long."""
        run, performer = messages.data_field(data, "run", str), self._performer
        if performer is None or (self._run and run == self._run.id):
            return
        pool = Pool(WARM_UP_TOGETHER)
        sent = [pool.spawn(performer.warm_up, run, row) for row in messages.unpack_rows(data)]
        if not pool.join(timeout=messages.data_field(data, "timeout_s", float)):
            pool.kill(timeout=5)
        results = [greenlet.value for greenlet in sent]
        errors = [result.error or result.outcome for result in results
                  if isinstance(result, Result) and result.outcome != Outcome.OK]  # fmt: skip
        ended = sum(isinstance(result, Result) for result in results)
        warmed = Warmed(run, len(sent), ended - len(errors), errors[0] if errors else None)
        self._send(messages.WARM, warmed.pack())

    def on_lease(self, data: Any) -> None:
        """Rows to send, or a sign of life."""
        if (run := self._run_of(data)) is not None:
            run.lease(messages.unpack_lease(data))

    def on_drain(self, data: Any) -> None:
        """Send nothing more, wait for what is in flight, and report all of it. Blocks as long."""
        if (run := self._run_of(data)) is not None:
            self._drain(run, messages.data_field(data, "timeout_s", float))

    def on_end(self, data: Any) -> None:
        """The run is over, and all that is known of it is where it belongs."""
        if (run := self._run_of(data)) is not None:
            run.dismissed = True

    def on_pong(self, data: Any) -> None:
        """The master's answer to a ping."""
        received_s = self._clock_s()
        sent_s, master_s = messages.data_field(data, "sent_s", float), messages.data_field(data, "master_s", float)
        same_clock = messages.data_field(data, "machine", str) == machine()
        self._clock.answered(sent_s, master_s, received_s, same_clock=same_clock)

    # the run

    def _run_of(self, data: Any) -> WorkerRun | None:
        """The run that a message is about, if it is the one that goes on here."""
        run = messages.data_field(data, "run", str)
        return self._run if self._run is not None and self._run.id == run else None

    def _introduce(self, performer: Performer) -> None:
        try:
            facts: dict[str, Any] = performer.open()
        except InputError as error:
            facts = {"error": str(error)}
        except Exception as error:  # of a user class, say: the master must not wait for this worker
            logger.exception("getting ready failed")
            facts = {"error": f"a worker could not get ready: {type(error).__name__}: {error}"}
        facts["machine"] = machine()
        if self._tests:  # what the one before may have left, which takes a tenth of a second
            gc.collect()
        self._tests += 1
        gc.freeze()  # never again over all that imports have made
        sys.setswitchinterval(SWITCH_S)
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

    def _report_regularly(self, run: WorkerRun) -> None:
        while run is self._run:
            self._report(run, run.take())
            wait_for_a_gap(PIECE_TAKES_S)
            run.show()
            for _ in range(LOCAL_PAUSES if self._local else 1):
                gevent.sleep(REPORT_EVERY_S)
                if run.waiting >= MANY_RECORDS:
                    break
            wait_for_a_gap(PIECE_TAKES_S)
            run.take_reads()
            wait_for_a_gap(PIECE_TAKES_S)
            run.work_up()
            wait_for_a_gap(REPORT_TAKES_S)

    def _report(self, run: WorkerRun, payload: dict[str, Any] | None) -> None:
        delays_s = np.empty(0) if self._loop_delay is None else self._loop_delay.take()
        self._send(messages.REPORT, run.report(payload, self._clock, delays_s, leaving=self._leaving))

    def _drain(self, run: WorkerRun, timeout_s: float) -> None:
        again = run.draining
        if not run.drain(timeout_s):
            return
        payload = run.take()
        run.show()
        if not again:
            self._finished()
        self._report(run, payload)
        run.drained()

    def _end_run(self) -> None:
        """Whatever still goes on of the run that goes on is cut short."""
        if (run := self._run) is not None:
            self._drain(run, timeout_s=0)
            run.end_spool(leaving=self._leaving)
            self._run = None
