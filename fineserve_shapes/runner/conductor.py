"""Conductor: one run after the other, each from its plan to a summary that is built once and never changed after."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
from gevent.event import Event
from locust.runners import LocalRunner

from fineserve_shapes.engine.master import Master
from fineserve_shapes.engine.run import Run
from fineserve_shapes.errors import InputError
from fineserve_shapes.filenames import FileNames, named
from fineserve_shapes.measure.ledger import failed
from fineserve_shapes.options import drain_timeout_s, settings, thresholds
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.rounding import rounded
from fineserve_shapes.runner.conclusion import (
    About,
    appends,
    checked,
    print_summary,
    summary_of,
    table_files,
    write_summary,
    write_tables,
)
from fineserve_shapes.runner.exits import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INVALID, EXIT_MISSED
from fineserve_shapes.runner.observers import Observers
from fineserve_shapes.runner.planned import Planned
from fineserve_shapes.runner.progressline import ProgressLine, progress_of
from fineserve_shapes.runner.step import Step
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values
from fineserve_shapes.workload.plan import Plan

logger = logging.getLogger(__name__)


class Conductor:
    """Takes a run from its plan to its end.

    about: what a run itself does not know. refuse: called with the reason where a run never began. shows_progress: a line
    on the console while a run goes on.

    summary: of the last run, None before its end.
    """

    def __init__(
        self,
        environment: Any,
        master: Master,
        observers: Observers,
        about: Callable[[], About],
        refuse: Callable[[InputError], None],
        *,
        shows_progress: bool,
    ) -> None:
        self._environment = environment
        self._master = master
        self._observers = observers
        self._about = about
        self._refuse = refuse
        self._shows_progress = shows_progress
        self._names = FileNames()
        self._current: Planned | None = None
        self._finishing: Event | None = None  # set when the end of the run is reached
        self._progress: ProgressLine | None = None
        self.summary: dict[str, Any] | None = None

    @property
    def finishing(self) -> bool:
        """Whether a run is being ended just now."""
        return self._finishing is not None and not self._finishing.is_set()

    @property
    def finished(self) -> bool:
        """Whether the run has been ended, or is about to be."""
        return self._finishing is not None

    def forget(self) -> None:
        """Nothing is known any more of the run before."""
        self.summary = self._finishing = None

    @property
    def enough(self) -> bool:
        """Whether the run that goes on has found out what it was made for."""
        run, planned = self._master.run, self._current
        if run is None or planned is None or run.now_s < 0:
            return False
        try:
            return planned.step.enough(run)
        except Exception:  # Locust would go on with the test for ever
            logger.exception("%s.enough failed", type(planned.step).__name__)
            self._environment.process_exit_code = EXIT_FAILED
            return True

    def planned(self, plan: Plan | Step, streams: tuple[Stream, ...], values: Values) -> Planned:
        """A run with this plan of these streams, up to the run time. Raises InputError for options that no run can have."""
        step = plan if isinstance(plan, Step) else Step(plan)
        plan = step.plan
        before = self._current if step.follows else None
        parsed = self._environment.parsed_options
        run_time_s = float(parsed.run_time) if getattr(parsed, "run_time", None) else None
        asked = settings(values, run_time_s, streams)
        if asked.request_log is not None:
            asked = replace(asked, request_log=self._names.free(asked.request_log))
        if step.warmup_s is not None:
            asked = replace(asked, warmup_s=step.warmup_s)
        output_file, report_file, junit = (values.file(flag) for flag in ("--output-file", "--report", "--junit"))
        if before is not None:
            output_file, report_file, junit = before.output_file, self._observers.report_file, before.junit
        else:
            if output_file is not None and not appends(output_file):
                output_file = self._names.free(output_file)
            report_file, junit = report_file and self._names.free(report_file), junit and self._names.free(junit)
        options_of_run = self._observers.prepare(asked, report_file)
        if run_time_s is not None:
            plan = plan.between(0.0, run_time_s)
        if plan.requests is None and run_time_s is None:
            logger.info("the plan is read while it runs: how many requests it has is known at its end")
        return Planned(
            step,
            plan,
            streams,
            values,
            options_of_run,
            drain_timeout_s(values),
            output_file,
            [self._names.free(path) for path in table_files(parsed.csv_prefix)],
            thresholds(values, options_of_run, step.extra),
            junit,
        )

    def begin(self, planned: Planned) -> None:
        """Start a run. Raises InputError where it cannot be."""
        self.forget()
        plan = planned.plan
        # what a step has not sent when it has seen enough was not asked for
        requests = None if planned.step.probe else plan.requests
        run = Run(plan, requests, planned.settings, local=isinstance(self._environment.runner, LocalRunner))
        try:
            planned.step.begin(run)
            self._observers.begin(run, planned, self._about())
        except InputError:
            if run.log is not None:
                run.log.close(b"{}")  # it has been opened
            raise
        logger.info("plan %s: %s; run %s", plan.fingerprint, _extent(plan), run.id)
        self._current = planned
        files = planned.settings.request_log, planned.output_file, self._observers.report_file, planned.junit
        for path in (*files, *planned.tables):
            self._names.write(path)
        if self._shows_progress:
            self._progress = ProgressLine(lambda: progress_of(run, plan))
        self._master.begin(run)

    def finish(self) -> None:
        """End the run: drain, close the ledger, write the summary. Blocks; called again it waits for the first call."""
        if self._finishing is not None:
            self._finishing.wait()
        run, planned = self._master.run, self._current
        if run is None or planned is None or self.summary is not None:
            return
        self._finishing = Event()
        try:
            self._finish(run, planned)
        finally:
            self._finishing.set()

    def print_summary(self) -> None:
        """On the console; with Locust's --json standard output has that alone."""
        if self.summary is not None:
            print_summary(self.summary, sys.stderr if self._environment.parsed_options.json else sys.stdout)

    def print_step(self) -> None:
        """What is said of a run that another one follows."""
        line = None if self._current is None else self._current.step.line()
        if line is None:
            self.print_summary()
        else:
            print(line, file=sys.stderr if self._environment.parsed_options.json else sys.stdout, flush=True)

    def _finish(self, run: Run, planned: Planned) -> None:
        deserted = not self._master.connected
        if run.in_flight and planned.drain_timeout_s:
            way = "; Ctrl-C cancels them" if self._environment.parsed_options.headless else ""
            logger.info("stopping: %s requests in flight have up to %g s to end (--drain-timeout)%s", f"{run.in_flight:,}",
                        planned.drain_timeout_s, way)  # fmt: skip
        self._master.drain(planned.drain_timeout_s)
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if run.failure is not None and run.start_s is None:
            self._environment.process_exit_code = EXIT_BAD_INPUT
            self._refuse(run.failure)
            self._observers.finish(None)
            if run.log is not None:
                run.log.close(b"{}")
            return
        self.summary = summary = self._conclude(run, planned)
        self._set_exit_code(run, planned, summary, deserted=deserted)
        if self._environment.web_ui is not None:
            (self.print_summary if planned.step.final else self.print_step)()
        self._observers.report(run, summary)

    def _conclude(self, run: Run, planned: Planned) -> dict[str, Any]:
        """The summary, in all the files that want it."""
        summary = summary_of(run, planned.plan, planned.values, self._about())
        planned.step.conclude(run, summary)
        checks = planned.thresholds if planned.step.final else []
        checked(summary, checks, planned.junit and named(planned.junit, run.id))
        self._observers.finish(summary)
        if run.log is not None:
            run.log.close(orjson.dumps(summary))
            summary["request_log"] |= {"requests": run.log.log.rows, "error": run.log.error}
            self._master.dismiss(run)
        if planned.tables:
            write_tables(run, *(named(path, run.id) for path in planned.tables))
        if planned.output_file is not None:
            write_summary(summary, named(planned.output_file, run.id))
        return summary

    def _set_exit_code(self, run: Run, planned: Planned, summary: dict[str, Any], *, deserted: bool) -> None:
        """What the process will end with: the last of these that holds, for the worst of its runs."""
        environment = self._environment
        if run.failure is not None:
            environment.process_exit_code = EXIT_BAD_INPUT
            return
        if run.book.ledger[Outcome.UNKNOWN] or (deserted and run.book.ledger[Outcome.UNSENT]):
            environment.process_exit_code = EXIT_FAILED
        elif failed(run.book.ledger) and environment.process_exit_code is None and not planned.step.probe:
            # by the ledger: a worker's statistics may have been lost on their way to Locust's
            environment.process_exit_code = environment.parsed_options.exit_code_on_error
        if any(not check["passed"] for check in summary["checks"]):
            environment.process_exit_code = EXIT_MISSED
        verdict = summary["fidelity"]["verdict"]
        if verdict is None:
            logger.warning("no request was due: nothing was measured")
        elif verdict == "invalid":
            logger.warning(
                "the load asked for is not the load delivered: %s", "; ".join(summary["fidelity"]["reasons"])
            )
        if verdict != "valid" and planned.values.switch("--fail-if-invalid") and planned.step.final:
            environment.process_exit_code = EXIT_INVALID


def _extent(plan: Plan) -> str:
    """How much is planned, as far as it is known before."""
    requests = "requests" if plan.requests is None else f"{plan.requests:,} requests"
    return requests if plan.span_s is None else f"{requests} over {rounded(plan.span_s, 4)} s"
