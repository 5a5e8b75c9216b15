"""Master: one run after the other, from a plan to a closed ledger."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent

from fineserve_shapes.engine.loopdelay import LoopDelay
from fineserve_shapes.engine.run import MAX_AHEAD_S, Run
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases import messages
from fineserve_shapes.leases.beginning import Beginning
from fineserve_shapes.leases.lease import Row, rows_of
from fineserve_shapes.leases.messages import MessageError, Warmed, by_stream
from fineserve_shapes.leases.standing import Standing
from fineserve_shapes.machine import machine
from fineserve_shapes.measure.fidelity import Process
from fineserve_shapes.measure.overload import Strain
from fineserve_shapes.timer import give_way, wait_for_a_gap

logger = logging.getLogger(__name__)

STEP_EVERY_S, LOCAL_STEP_EVERY_S = 0.1, 0.25
"""A worker on another machine sends nothing where it has heard nothing for a second."""
FOLD_EVERY_S = 0.05
FOLD_TAKES_S = 0.0015
GATHER_S = 120.0
LAST_REPORTS_S = 3.0
DRAIN_EVERY_S = 1.0
LAST_LEASES_S = 10.0
WARM_UP_S = 120.0

Send = Callable[[str, dict[str, Any], str], None]


class Master:
    """The master's side of runs.

    send: hands a message to a worker. connected: the workers that are there now.
    """

    def __init__(self, send: Send, connected: Callable[[], list[str]]) -> None:
        self._send = send
        self._connected = connected
        self._greenlet: gevent.Greenlet | None = None
        self._folder: gevent.Greenlet | None = None
        self._hurried = False
        self._loop_delay: LoopDelay | None = None
        self._strain = Strain(0.0)
        self.run: Run | None = None
        self._crew: dict[str, dict[str, Any]] = {}  # what workers said when they got ready for the test

    def begin(self, run: Run) -> None:
        """Start a run as soon as the workers that are there are ready."""
        self.run, self._hurried = run, False
        connected = self._connected()
        run.facts.update((worker, facts) for worker, facts in self._crew.items() if worker in connected)
        self._strain = Strain(run.settings.limits.lag_s)
        self._loop_delay = LoopDelay()
        self._greenlet = gevent.spawn(self._drive, run)
        self._folder = gevent.spawn(self._fold, run)

    def drain(self, timeout_s: float) -> None:
        """End the run: lease nothing more, let what is in flight end or cancel it, and close the ledger. Blocks."""
        run = self.run
        if run is None or self._greenlet is None:
            return
        run.stopping = True
        self._greenlet.join(timeout=LAST_LEASES_S)  # not killed at once: it may be reading the plan
        self._greenlet.kill()
        self._greenlet = None
        run.end_s = max(run.now_s, 0.0)
        run.book.stop()
        self._wait_for_last_reports(run, timeout_s)
        run.book.give_up()
        self.run = None  # who still reports is too late: the account is closed
        if self._folder is not None:
            self._folder.kill()
            self._folder = None
        run.account_for_the_rest()
        run.begun.set()
        if self._loop_delay is not None:
            self._loop_delay.stop()

    @property
    def connected(self) -> list[str]:
        """The workers that are there now."""
        return self._connected()

    def disband(self) -> None:
        """The test is over: workers get ready anew, and say so, when another one starts."""
        self._crew.clear()

    def dismiss(self, run: Run) -> None:
        """Tell the workers that all that they said of a run is where it belongs."""
        for worker in self._connected():
            if worker in run.facts:
                self._send(messages.END, {"run": run.id}, worker)

    def hurry(self) -> None:
        """A drain that goes on, or the next one, has no time: what is in flight is cancelled."""
        self._hurried = True

    # messages from workers

    def on_hello(self, worker: str, data: Any) -> None:
        """A worker is ready, or cannot be."""
        facts, error = messages.unpack_hello(data)
        run = self.run
        if run is None or worker not in self._connected():
            return
        if error is None and (differs := _other_prompts(facts, run.facts.values())) is not None:
            error = (
                f"worker {worker} makes other prompts than the others{differs}: its prompt file or tokenizer differs"
            )
        if error is not None:
            if run.start_s is None:
                self._fail(run, InputError(error))
            else:
                logger.error("worker %s cannot take part: %s", worker, error)
            return
        self._crew[worker] = run.facts[worker] = facts
        if run.start_s is not None and not run.book.closed:
            self._welcome(run, worker)

    def on_ping(self, worker: str, data: Any) -> None:
        """A worker asks for the time."""
        sent_s = messages.data_field(data, "sent_s", float)
        self._send(messages.PONG, {"sent_s": sent_s, "master_s": time.perf_counter(), "machine": machine()}, worker)

    def on_report(self, worker: str, data: Any) -> None:
        """What became of rows."""
        run = self.run
        if messages.data_field(data, "run", str) != (run and run.id) or run is None:
            return
        report, standing = messages.unpack_report(data), Standing.unpack(data)
        if worker not in run.facts:
            raise MessageError("it reports and has never said hello")
        if report.at_s > run.now_s + MAX_AHEAD_S:
            raise MessageError(f"it is {report.at_s - run.now_s:.0f} s ahead of time")
        process = run.workers.setdefault(worker, Process())
        process.in_flight, process.tokens_come = standing.in_flight, standing.tokens_come
        process.offset_s = standing.offset_s
        process.loop_delay.record(standing.loop_delays_s)
        process.reads.merge(standing.reads)
        process.stamped = all(
            of_stream.get("token_times") == "received" for of_stream in by_stream(run.facts[worker]).values()
        )
        process.uncertainty_s = max(process.uncertainty_s or 0.0, standing.uncertainty_s)
        for payload in run.book.report(worker, report, run.now_s):
            if payload is not None:
                try:
                    run.measured(worker, payload)
                except (ValueError, KeyError, TypeError) as error:
                    run.malformed += 1
                    logger.warning("worker %s sent measurements that cannot be read: %s", worker, error)

    def on_warm(self, worker: str, data: Any) -> None:
        """A worker's warm-up requests have ended."""
        run, said = self.run, Warmed.unpack(data)
        if run is not None and said.run == run.id and worker in run.facts:
            run.warm[worker] = said

    def dropped(self) -> None:
        """A message could not be read."""
        if self.run is not None:
            self.run.malformed += 1

    # the run

    def _drive(self, run: Run) -> None:
        try:
            if self._gather(run) and self._warm_up(run):
                run.start_s = time.perf_counter() + run.lead_s
                run.started_at = time.time() + run.lead_s
                for worker in list(run.facts):
                    self._welcome(run, worker)
                run.begun.set()
                logger.info("run %s starts with %d worker(s)", run.id, len(run.facts))
            while run.failure is None and not run.stopping:
                for worker, lease in run.book.step(run.now_s):
                    self._send(messages.LEASE, {"run": run.id, **messages.pack_lease(lease)}, worker)
                give_way()
                self._watch(run)
                gevent.sleep(LOCAL_STEP_EVERY_S if run.local else STEP_EVERY_S)
        except InputError as error:  # the plan itself turned out to be unusable, in the middle of a file say
            self._fail(run, error)
        except Exception as error:  # a mistake of ours must end the run, not leave it waiting for ever
            logger.exception("the run cannot go on")
            self._fail(run, InputError(f"the run cannot go on: {type(error).__name__}: {error}"))

    def _fold(self, run: Run) -> None:
        """A little at a time: where this process sends as well, requests fall due and answers come in meanwhile."""
        while True:
            while run.fold():
                wait_for_a_gap(FOLD_TAKES_S)
            gevent.sleep(FOLD_EVERY_S)

    def _gather(self, run: Run) -> bool:
        """Wait until every worker that is there is ready; whether the run can start."""
        until_s = time.perf_counter() + GATHER_S
        while run.failure is None and not run.stopping:
            connected = self._connected()
            missing = [worker for worker in connected if worker not in run.facts]
            if connected and not missing:
                return True
            if time.perf_counter() > until_s:
                self._fail(run, InputError(f"{len(missing)} of {len(connected)} workers did not get ready in time"))
            gevent.sleep(0.02)
        return False

    def _warm_up(self, run: Run) -> bool:
        """Have extra requests sent, and wait for their end; whether the run can start."""
        wanted = run.settings.warmup_requests
        if not wanted:
            return True
        first = [row for block in itertools.islice(iter(run.blocks), 1) for row in rows_of(block)]
        if not first:
            return True
        alike = [first[number % len(first)] for number in range(wanted)]
        rows = [Row(0.0, number, one.input_tokens, one.output_tokens, one.stream, number)
                for number, one in enumerate(alike)]  # fmt: skip
        workers = list(run.facts)
        logger.info("warming up with %d requests", wanted)
        for place, worker in enumerate(workers):
            share = messages.pack_rows(rows[place :: len(workers)])
            self._send(messages.WARM_UP, {"run": run.id, "rows": share, "timeout_s": WARM_UP_S}, worker)
        until_s = time.perf_counter() + WARM_UP_S + LAST_REPORTS_S
        while run.failure is None and not run.stopping:
            missing = [worker for worker in workers if worker in self._connected() and worker not in run.warm]
            if not missing or time.perf_counter() > until_s:
                break
            gevent.sleep(0.02)
        if run.warmed < wanted:
            errors = [said.error for said in run.warm.values() if said.error]
            logger.warning("%d of %d warm-up requests did not end well%s", wanted - run.warmed, wanted,
                           f": {errors[0][:300]}" if errors else "")  # fmt: skip
        return run.failure is None and not run.stopping

    def _watch(self, run: Run) -> None:
        """Take stock, and say it where a process does not keep up."""
        run.account()
        if self._loop_delay is not None:
            run.master.loop_delay.record(self._loop_delay.take())
        now_s = run.now_s
        for name, process in [*run.workers.items(), ("the master", run.master)]:
            if (late_s := self._strain.excess_s(name, process.loop_delay, now_s)) is not None:
                logger.warning("%s cannot keep up: its event loop has been late by %.0f ms on average for some seconds,"
                               " so that requests leave late: it has too much to do, or other programs have its core",
                               name, 1e3 * late_s)  # fmt: skip

    def _welcome(self, run: Run, worker: str) -> None:
        assert run.start_s is not None
        settings = run.settings
        begin = Beginning(run.id, run.start_s, settings.warmup_s, run.log is not None, settings.token_times, run.names)
        self._send(messages.BEGIN, begin.pack(), worker)
        run.book.join(worker, run.now_s)

    def _fail(self, run: Run, error: InputError) -> None:
        if run.failure is None:
            run.failure = error
            run.book.stop()
            if run.start_s is not None:  # else it is for whoever asked for the start to say
                logger.error("%s", error)
            run.begun.set()

    def _wait_for_last_reports(self, run: Run, timeout_s: float) -> None:
        until_s = time.perf_counter() + timeout_s
        told_s = float("-inf")
        hurried = False
        while run.book.ledger.open and (now_s := time.perf_counter()) < until_s + LAST_REPORTS_S and self._connected():
            if self._hurried and not hurried:
                logger.warning("requests in flight are cancelled")
                hurried, until_s, told_s = True, now_s, float("-inf")
            if now_s - told_s >= DRAIN_EVERY_S:  # again and again: a worker may have been away
                told_s = now_s
                for worker in run.book.alive:
                    self._send(messages.DRAIN, {"run": run.id, "timeout_s": max(until_s - now_s, 0.0)}, worker)
            for worker, lease in run.book.step(run.now_s):  # signs of life, and the confirmation of reports
                self._send(messages.LEASE, {"run": run.id, **messages.pack_lease(lease)}, worker)
            run.account()
            gevent.sleep(STEP_EVERY_S / 2)
        for worker, lease in run.book.step(run.now_s):  # the last reports are confirmed, too
            self._send(messages.LEASE, {"run": run.id, **messages.pack_lease(lease)}, worker)


def _other_prompts(facts: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> str | None:
    """Of which stream a worker makes other prompts than the others, as the end of a sentence; None: of none."""
    for other in others:
        for name, of_stream in by_stream(facts).items():
            if of_stream.get("digest") != by_stream(other).get(name, {}).get("digest"):
                return f" for stream {name}" if name else ""
    return None
