"""Master: one run after the other, from a plan to a closed ledger."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import Event

from fineserve_shapes.engine import messages
from fineserve_shapes.engine.leases import SILENCE_S, LeaseBook
from fineserve_shapes.engine.prefetch import prefetched
from fineserve_shapes.engine.slots import Slots
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.outbox import Measurements
from fineserve_shapes.measure.summary import Totals
from fineserve_shapes.workload.block import Block

logger = logging.getLogger(__name__)

STEP_EVERY_S = 0.1
LEAD_S = 1.0
GATHER_S = 120.0
LAST_REPORTS_S = 3.0
DRAIN_EVERY_S = 1.0

Send = Callable[[str, dict[str, Any], str], None]


class Run:
    """One run as the master sees it.

    blocks: the plan. planned: its rows, where that is known. run_time_s: when to stop leasing; None: with the plan.
    local: the one worker is in this process. It cannot be cut off, and it keeps no fence: so it is never given up.
    max_concurrency: requests in flight at most, over all workers.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        planned: int | None,
        run_time_s: float | None,
        *,
        local: bool,
        max_concurrency: int | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex[:8]
        self.start_s: float | None = None  # perf_counter
        self.started_at = time.time()
        self.run_time_s = run_time_s
        silence_s = float("inf") if local else SILENCE_S
        slots = None if max_concurrency is None else Slots(max_concurrency)
        self.book = LeaseBook(prefetched(iter(blocks)), planned, slots=slots, silence_s=silence_s)
        self.totals = Totals()
        self.workers: dict[str, dict[str, Any]] = {}
        self.facts: dict[str, dict[str, Any]] = {}  # what workers said when they were ready
        self.failure: InputError | None = None
        self.malformed = 0
        self.begun = Event()  # set when leasing starts, or when it never will

    @property
    def now_s(self) -> float:
        """Seconds since the start of the run; minus infinity before it is set."""
        return float("-inf") if self.start_s is None else time.perf_counter() - self.start_s

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for but requests in flight at the end of the run time."""
        if self.failure is not None or self.book.closed:
            return True
        return self.run_time_s is not None and self.now_s >= self.run_time_s

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended, by the last word of the workers that are alive."""
        return sum(int(self.workers.get(worker, {}).get("in_flight", 0)) for worker in self.book.alive)


class Master:
    """The master's side of runs.

    send: hands a message to a worker. connected: the workers that are there now.
    """

    def __init__(self, send: Send, connected: Callable[[], list[str]]) -> None:
        self._send = send
        self._connected = connected
        self._greenlet: gevent.Greenlet | None = None
        self._hurried = False
        self.run: Run | None = None

    def begin(self, run: Run) -> None:
        """Start a run as soon as the workers that are there are ready."""
        self.run, self._hurried = run, False
        self._greenlet = gevent.spawn(self._drive, run)

    def drain(self, timeout_s: float) -> None:
        """End the run: lease nothing more, let what is in flight end or cancel it, and close the ledger. Blocks."""
        run = self.run
        if run is None or self._greenlet is None:
            return
        self._greenlet.kill()
        self._greenlet = None
        run.book.stop()
        self._wait_for_last_reports(run, timeout_s)
        run.book.give_up()
        run.begun.set()

    def hurry(self) -> None:
        """A drain that goes on, or the next one, has no time: what is in flight is cancelled."""
        self._hurried = True

    # messages from workers

    def on_hello(self, worker: str, data: Any) -> None:
        """A worker is ready, or cannot be."""
        run = self.run
        if run is None or not isinstance(data, dict):
            return
        error = data.get("error")
        others = {facts.get("digest") for facts in run.facts.values()}
        if others and data.get("digest") not in others and error is None:
            error = f"worker {worker} makes other prompts than the others: its prompt file or tokenizer differs"
        if isinstance(error, str):
            if run.start_s is None:
                self._fail(run, InputError(error))
            else:
                logger.error("worker %s cannot take part: %s", worker, error)
            return
        run.facts[worker] = data
        if run.start_s is not None and not run.book.closed:
            self._welcome(run, worker)

    def on_ping(self, worker: str, data: Any) -> None:
        """A worker asks for the time."""
        sent_s = messages.data_field(data, "sent_s", float)
        self._send(messages.PONG, {"sent_s": sent_s, "master_s": time.perf_counter()}, worker)

    def on_report(self, worker: str, data: Any) -> None:
        """What became of rows."""
        run = self.run
        if run is None or not isinstance(data, dict) or data.get("run") != run.id:
            return
        report, facts = messages.unpack_report(data), messages.unpack_facts(data)
        for payload in run.book.report(worker, report, run.now_s):
            if payload is not None:
                try:
                    run.totals.add(Measurements.unpack(payload))
                except (ValueError, KeyError, TypeError) as error:
                    run.malformed += 1
                    logger.warning("worker %s sent measurements that cannot be read: %s", worker, error)
        run.workers[worker] = facts

    # the run

    def _drive(self, run: Run) -> None:
        try:
            if self._gather(run):
                run.start_s = time.perf_counter() + LEAD_S
                for worker in list(run.facts):
                    self._welcome(run, worker)
                run.begun.set()
                logger.info("run %s starts with %d worker(s)", run.id, len(run.facts))
            while run.failure is None:
                for worker, lease in run.book.step(run.now_s):
                    self._send(messages.LEASE, {"run": run.id, **messages.pack_lease(lease)}, worker)
                gevent.sleep(STEP_EVERY_S)
        except InputError as error:  # the plan itself turned out to be unusable, in the middle of a file say
            self._fail(run, error)

    def _gather(self, run: Run) -> bool:
        """Wait until every worker that is there is ready; whether the run can start."""
        until_s = time.perf_counter() + GATHER_S
        while run.failure is None:
            connected = self._connected()
            missing = [worker for worker in connected if worker not in run.facts]
            if connected and not missing:
                return True
            if time.perf_counter() > until_s:
                self._fail(run, InputError(f"{len(missing)} of {len(connected)} workers did not get ready in time"))
            gevent.sleep(0.02)
        return False

    def _welcome(self, run: Run, worker: str) -> None:
        self._send(messages.BEGIN, {"run": run.id, "start_s": run.start_s}, worker)
        run.book.join(worker, run.now_s)

    def _fail(self, run: Run, error: InputError) -> None:
        if run.failure is None:
            run.failure = error
            run.book.stop()
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
            gevent.sleep(STEP_EVERY_S / 2)
