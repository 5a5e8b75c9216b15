"""Run: one run as the master sees it, from its plan to what became of every row."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gevent.event import Event

from fineserve_shapes.engine.logwriter import LogWriter
from fineserve_shapes.engine.prefetch import prefetched
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases.book import LeaseBook
from fineserve_shapes.leases.lease import SILENCE_S, block_of
from fineserve_shapes.leases.messages import Warmed
from fineserve_shapes.leases.slots import Slots
from fineserve_shapes.measure.currentrate import Flow
from fineserve_shapes.measure.fidelity import Accounts, Limits, Process, judge, of_processes
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.requestlog import RequestLog
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.measure.totals import Totals
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.workload.block import Block

logger = logging.getLogger(__name__)

ADVANCE_EVERY_S = 1.0
LEAD_S, LOCAL_LEAD_S = 1.0, 0.4
"""From when all are ready to the start of a run: workers get their first leases in it, and make the first prompts."""
COME_OVER_S = 1.0
"""Tokens that are reported together came in that time at most: reports are not so far apart."""
MAX_AHEAD_S = 60.0  # of the master's clock: what a worker measures later than that is wrong


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run a plan.

    names: of the plan's streams. slo: of all of them or of each. limits: what a valid run keeps within; limits_of_streams:
    what each stream does, in a mix: else all keep within the run's.
    run_time_s: when to stop leasing; None: with the plan. warmup_requests: extra ones before time 0. warmup_s: rows due
    before that stay out of the figures. request_log: a file for a row per request, with every token's time where
    token_times is set. max_concurrency: requests in flight at most, over all workers.
    """

    run_time_s: float | None = None
    slo: Slo | Slos | None = None
    limits: Limits = field(default_factory=Limits)
    limits_of_streams: tuple[Limits, ...] = ()
    names: Names = field(default_factory=Names)
    warmup_requests: int = 0
    warmup_s: float = 0.0
    request_log: Path | None = None
    token_times: bool = False
    max_concurrency: int | None = None

    @property
    def allowed_lags_s(self) -> tuple[float, ...]:
        """How late a request of each stream may leave."""
        own = self.limits_of_streams or (self.limits,) * len(self.names.names)
        return tuple(limits.lag_s for limits in own)


class Run:
    """One run.

    blocks: the plan; every iteration starts anew. planned: its rows, where that is known. local: the one worker is in
    this process. It cannot be cut off, and it keeps no fence: so it is never given up.

    What the outside reads: `tally` (totals, series), `fidelity()`, `book.ledger`, `workers`, `in_flight`, `flow`, `now_s`.
    """

    def __init__(self, blocks: Iterable[Block], planned: int | None, settings: Settings, *, local: bool) -> None:
        self.id = uuid.uuid4().hex[:8]
        self.settings = settings
        self.names = settings.names
        self.blocks = blocks
        self.log: LogWriter | None = None
        if settings.request_log is not None:
            log = RequestLog(
                settings.request_log, self.id, self.names, token_times=settings.token_times, warmup_s=settings.warmup_s
            )
            self.log = LogWriter(log)
        self.start_s: float | None = None  # perf_counter
        self.started_at = time.time()
        self.end_s: float | None = None  # of the run: when leasing stopped
        self.local = local
        self.lead_s = LOCAL_LEAD_S if local else LEAD_S
        silence_s = float("inf") if local else SILENCE_S
        self._reading = prefetched(iter(blocks))
        slots = None if settings.max_concurrency is None else Slots(settings.max_concurrency)
        self.book = LeaseBook(self._reading, planned, mixed=self.names.mixed, slots=slots, silence_s=silence_s)
        self.tally = Tally(settings.slo, settings.warmup_s, settings.limits.lag_s, self.names, settings.allowed_lags_s)
        self.flow = Flow()  # of output tokens
        self._come: Counter[int] = Counter()  # output tokens by stream, as of the last look
        self._come_s = 0.0  # of the last look that found more
        self.workers: dict[str, Process] = {}
        self.master = Process()
        self.facts: dict[str, dict[str, Any]] = {}  # what workers said when they were ready
        self.warm: dict[str, Warmed] = {}  # what workers said of the warm-up
        self.failure: InputError | None = None
        self.malformed = 0
        self.stopping = False
        self.begun = Event()  # set when leasing starts, or when it never will
        self._unfolded: deque[Callable[[], None]] = deque()
        self._accounts: dict[int, Accounts] = {}  # by stream, once the run has ended
        self._ended = False
        self._sampled_s = self._advanced_s = 0.0

    @property
    def now_s(self) -> float:
        """Seconds since the start of the run; minus infinity before it is set."""
        return float("-inf") if self.start_s is None else time.perf_counter() - self.start_s

    @property
    def warmed(self) -> int:
        """How many warm-up requests ended well, by the workers' word."""
        return sum(said.ok for said in self.warm.values())

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for but requests in flight at the end of the run time."""
        if self.failure is not None or self.book.closed:
            return True
        return self.settings.run_time_s is not None and self.now_s >= self.settings.run_time_s

    @property
    def totals(self) -> Totals:
        """All streams together."""
        return self.tally.total

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended, by the workers' last word."""
        return sum(self.in_flight_by_stream().values())

    def in_flight_by_stream(self) -> dict[int, int]:
        """The same by stream; what a worker that fell silent had in flight is not known, and left out."""
        found: Counter[int] = Counter()
        for worker in self.book.alive:
            if worker in self.workers:
                found.update(self.workers[worker].in_flight)
        return found

    def fidelity(self) -> dict[str, Any]:
        """Asked against delivered, final or so far (see `judge`). A mix is valid where all its streams are."""
        also = [f"stream {name}: {reason}" for name, found in self._of_streams().items() for reason in found["reasons"]]
        return judge(
            self.tally.delivery, self.tally.total, self._account_of(None), self.workers, self.settings.limits,
            self.master, also,
        )  # fmt: skip

    def fidelity_of_streams(self) -> dict[str, dict[str, Any]]:
        """The same of each stream by its name; nothing where the run is no mix."""
        return self._of_streams(of_processes(self.workers, self.tally.total, self.settings.limits))

    def _of_streams(self, also: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        if not self.names.mixed:
            return {}
        return {
            name: judge(stream.delivery, stream.totals, self._account_of(number), {}, limits, also=also)
            for number, ((name, stream), limits) in enumerate(
                zip(self.tally.streams.items(), self.settings.limits_of_streams, strict=True)
            )
        }

    def _account_of(self, stream: int | None) -> Accounts:
        """Of one stream, or all."""
        if not self._ended:
            ledger = self.book.ledger if stream is None else self.book.ledgers.by_stream[stream]
            return Accounts(0, ledger[Outcome.UNKNOWN])
        if stream is not None:
            return self._accounts.get(stream, Accounts())
        found = self._accounts.values()
        return Accounts(sum(one.unsent for one in found), sum(one.unknown for one in found))

    def account(self) -> None:
        """Some time has passed: the plan's rows that were leased, and the requests in flight, go into the series."""
        now_s = self.now_s
        for block in self.book.take_fresh():
            self.tally.plan(block.stream, block.due_s)
        if now_s > self._sampled_s:
            self.tally.series.sample(now_s, now_s - self._sampled_s, self.in_flight_by_stream())
            self._sampled_s = now_s
            self._count_tokens(now_s)
        if self.end_s is None and now_s - self._advanced_s >= ADVANCE_EVERY_S:
            self._advanced_s = now_s
            self.tally.advance(now_s)

    def _count_tokens(self, now_s: float) -> None:
        come: Counter[int] = Counter()
        for process in self.workers.values():
            come.update(process.tokens_come)
        if come:
            self.flow.note(now_s, come.total())
            if new := come - self._come:
                self.tally.series.come(max(self._come_s, now_s - COME_OVER_S), now_s, new)
                self._come_s = now_s
            self._come = come

    def measured(self, worker: str, payload: Any) -> None:
        """A worker's measurements, as they came: `fold` will take them. Raises ValueError, KeyError or TypeError for
        anything else."""
        measured = Measurements.unpack(payload)
        if measured.latest_s > self.now_s + MAX_AHEAD_S:
            raise ValueError(f"they are {measured.latest_s - self.now_s:.0f} s ahead of time")
        if worker in self.workers:
            self.workers[worker].sent += len(measured.sent)
        self._unfolded += self.tally.steps(measured)
        if self.log is not None:
            self.log.add(measured, worker)

    def fold(self) -> bool:
        """Take the next of what was measured into the figures, which is some tenths of a millisecond's work.

        Whether there was any.
        """
        if not self._unfolded:
            return False
        try:
            self._unfolded.popleft()()
        except Exception:  # figures must not stand still, nor a run end without its summary
            logger.exception("some measurements could not be taken in")
            self.malformed += 1
        return True

    def account_for_the_rest(self) -> None:
        """The ledger is closed: rows without a record go into the series, the log and the verdict."""
        end_s = self.now_s if self.end_s is None else self.end_s
        while self.fold():
            pass
        self.account()
        self.tally.finish(end_s)
        if self.log is not None:
            self.log.finish()
        unknown = self.book.unknown
        if unknown:
            self._lose(Outcome.UNKNOWN, block_of([row for _, row in unknown]), [worker for worker, _ in unknown])
        unsent: Counter[int] = Counter()
        allowed_s = end_s - np.array(self.settings.allowed_lags_s)  # what was due later was still in time at the end
        for block in self.book.unsent():
            due = block.take(block.due_s <= end_s)
            unsent.update(due.stream[due.due_s <= allowed_s[due.stream]].tolist())
            self.tally.series.lose(Outcome.UNSENT, due.stream, due.due_s)
            if self.log is not None:
                self._log_lost(Outcome.UNSENT, block, None)
            elif not len(due) and len(block) and not self.names.mixed:
                break  # the rest of the plan lies after the end as well
        self._reading.close()
        lost = Counter(row.stream for _, row in unknown if row.due_s <= end_s)
        self._accounts = {stream: Accounts(unsent[stream], lost[stream]) for stream in {*unsent, *lost}}
        self._ended = True

    def _lose(self, outcome: str, block: Block, workers: list[str]) -> None:
        self.tally.series.lose(outcome, block.stream, block.due_s)
        self._log_lost(outcome, block, workers)

    def _log_lost(self, outcome: str, block: Block, workers: list[str] | None) -> None:
        if (writer := self.log) is not None:
            position = block.index if block.position is None else block.position
            columns = block.index, position, block.stream, block.due_s, block.input_tokens, block.output_tokens
            writer.call(lambda: writer.log.write_lost(outcome, *columns, workers))
