"""Session: binds the engine to Locust's runner. Messages, events and signals of the driving process meet here.

A shape class in a locustfile binds each process once: the master to what drives runs, a worker to what sends requests
(`workersession`), a single process to both.
"""

from __future__ import annotations

import ipaddress
import logging
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import flask
import gevent
import orjson
from gevent.event import Event
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from fineserve_shapes.engine.master import Master
from fineserve_shapes.engine.run import Run
from fineserve_shapes.errors import InputError
from fineserve_shapes.filenames import FileNames, named
from fineserve_shapes.leases import messages
from fineserve_shapes.machine import machine
from fineserve_shapes.measure.ledger import failed
from fineserve_shapes.options import drain_timeout_s, settings, thresholds
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
from fineserve_shapes.runner.interrupts import interrupt_main, on_signals
from fineserve_shapes.runner.mailbox import Mailbox
from fineserve_shapes.runner.observers import Observers
from fineserve_shapes.runner.planned import Planned
from fineserve_shapes.runner.progressline import ProgressLine, progress_of
from fineserve_shapes.runner.workersession import WorkerSession
from fineserve_shapes.simulator.process import SimulatorProcess
from fineserve_shapes.values import Values

if TYPE_CHECKING:
    from fineserve_shapes.shapes import PlanShape

logger = logging.getLogger(__name__)

BEGIN_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0
STAND_IN = "8b-h100"
"""The preset of the simulator that stands in where there is no host."""
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INVALID = 3
"""Of --fail-if-invalid."""
EXIT_MISSED = 4
"""Of --threshold and --fail-if-slo-missed."""


class MasterSession:
    """The driving side of a process."""

    def __init__(self, environment: Any, shape: PlanShape) -> None:
        self._environment = environment
        self._shape = shape
        self._runner = environment.runner
        self._simulator: SimulatorProcess | None = None
        self._interrupted = False
        self._finishing: Event | None = None  # set when the end of the run is reached
        self._quitting = False
        self._shows_progress = False
        self._names = FileNames()
        self._planned: Planned | None = None
        self._summary: dict[str, Any] | None = None
        self._progress: ProgressLine | None = None
        self.error: InputError | None = None  # why the last start failed
        self.master = Master(
            lambda kind, data, worker: self._runner.send_message(kind, data, client_id=worker), self._connected
        )
        mailbox = Mailbox(self.master.dropped)
        for kind, listener in (
            (messages.HELLO, self._on_hello),
            (messages.PING, self.master.on_ping),
            (messages.WARM, self.master.on_warm),
            (messages.REPORT, self.master.on_report),
        ):
            self._runner.register_message(kind, mailbox.listener_from(listener))
        environment.events.test_stopping.add_listener(self._on_test_stopping)
        environment.events.quitting.add_listener(self._on_quitting)
        environment.events.quit.add_listener(self._on_quit)
        self._start_shape = self._runner.start_shape
        self._runner.start_shape = self._checked_start_shape
        try:
            self._observers = Observers(environment.web_ui, environment.parsed_options)
        except InputError as error:
            _exit_with(error)
        if environment.web_ui is not None:
            self._wrap_swarm(environment.web_ui)
        self._signals = on_signals(self._on_signal)
        if isinstance(self._runner, MasterRunner) and not _is_loopback(self._runner.master_bind_host):
            logger.warning("the master listens on %s port %s: whoever reaches it can take part and read the options; it"
                           " is neither encrypted nor authenticated", self._runner.master_bind_host,
                           self._runner.master_bind_port)  # fmt: skip
        if environment.parsed_options.headless:
            options = environment.parsed_options
            self._shows_progress = not options.print_stats
            if self._shows_progress:
                options.only_summary = True  # one line in the place of Locust's table every two seconds
            try:  # now, before workers connect and anything starts
                self._planned = self._plan()
            except InputError as error:
                _exit_with(error)

    # for the shape

    @property
    def workers(self) -> int:
        """How many processes send."""
        return int(self._runner.worker_count)

    @property
    def over(self) -> bool:
        """Whether the run is to be stopped now."""
        run = self.master.run
        return self._interrupted or (run is not None and run.over)

    # starting

    def _checked_start_shape(self) -> None:
        """Start a run, or keep the reason why that cannot be."""
        if self._finishing is not None:  # the run before has ended, but Locust may not be through with it
            until_s = time.perf_counter() + END_TIMEOUT_S
            while self._runner.shape_greenlet is not None and time.perf_counter() < until_s:
                gevent.sleep(0.05)
        if self._runner.shape_greenlet is not None:
            self.error = InputError("a run is still going on: stop it first")
            self._start_shape()  # Locust says so in its log
            return
        self.error = self._summary = self._finishing = None
        self._interrupted = False
        try:
            planned = self._planned or self._plan()
            local = isinstance(self._runner, LocalRunner)
            self._provide_host()
            run = Run(planned.plan, planned.plan.requests, planned.settings, local=local)
            self._observe(run, planned)
        except InputError as error:
            self.error = error
            self._refuse(error)
            if self._environment.parsed_options.headless:
                self._runner.shape_greenlet = gevent.spawn(lambda: None)  # Locust waits for it, and ends
            return
        self._planned = None if self._environment.web_ui else planned
        self._begin(run, planned)
        self._start_shape()

    def _refuse(self, error: InputError) -> None:
        """A run cannot start. Without a web UI that is the last line of all, and no empty tables stand before it."""
        self.error = error
        if not self._environment.parsed_options.headless:
            logger.error("%s", error)
            return
        self._environment.process_exit_code = EXIT_BAD_INPUT
        logging.getLogger("locust.stats_logger").disabled = True

    def _plan(self) -> Planned:
        """The plan that the options ask for, up to the run time."""
        parsed = self._environment.parsed_options
        values = Values(parsed)
        plan = self._shape.plan(values)
        run_time_s = float(parsed.run_time) if getattr(parsed, "run_time", None) else None
        asked = settings(values, run_time_s)
        if asked.request_log is not None:
            asked = replace(asked, request_log=self._names.free(asked.request_log))
        output_file = values.file("--output-file")
        if output_file is not None and not appends(output_file):
            output_file = self._names.free(output_file)
        report_file, junit = values.file("--report"), values.file("--junit")
        options_of_run = self._observers.prepare(asked, report_file and self._names.free(report_file))
        if run_time_s is not None:
            plan = plan.between(0.0, run_time_s)
        if plan.requests is None and run_time_s is None:
            logger.info("the plan is read while it runs: how many requests it has is known at its end")
        return Planned(
            plan,
            values,
            options_of_run,
            drain_timeout_s(values),
            output_file,
            [self._names.free(path) for path in table_files(parsed.csv_prefix)],
            thresholds(values, options_of_run.slo),
            junit and self._names.free(junit),
        )

    def _begin(self, run: Run, planned: Planned) -> None:
        plan = planned.plan
        logger.info("plan %s: %s requests over %s s; run %s", plan.fingerprint, plan.requests, plan.span_s, run.id)
        self._current = planned
        for path in (
            planned.settings.request_log,
            planned.output_file,
            self._observers.report_file,
            planned.junit,
            *planned.tables,
        ):
            self._names.write(path)
        if self._shows_progress:
            self._progress = ProgressLine(lambda: progress_of(run, plan))
        self.master.begin(run)

    def _observe(self, run: Run, planned: Planned) -> None:
        try:
            self._observers.begin(run, planned.plan, planned.values, self._about())
        except InputError:
            if run.log is not None:
                run.log.close(b"{}")  # it has been opened
            raise

    def _about(self) -> About:
        """What a run itself does not know."""
        environment = self._environment
        host = environment.host or next((found.host for found in environment.user_classes if found.host), None)
        return About(self._shape.mode, host, self._simulator is not None and host == self._simulator.url)

    def _provide_host(self) -> None:
        """Without a host the simulator stands in, and the run says so."""
        environment = self._environment
        if environment.host or any(found.host for found in environment.user_classes):
            return
        if self._simulator is None:
            self._simulator = SimulatorProcess(preset=STAND_IN).start()
        environment.host = self._simulator.url
        logger.warning(
            "no --host: the simulator at %s stands in (preset %s), and all figures are its own",
            self._simulator.url,
            STAND_IN,
        )

    def _wrap_swarm(self, web_ui: Any) -> None:
        """Show why a start failed beside the form, rather than claim that it succeeded."""
        swarm = web_ui.app.view_functions["locust.swarm"]

        def checked_swarm() -> Any:
            before, self.error = self.master.run, None
            response = swarm()
            run = self.master.run
            if self.error is None and run is not None and run is not before:
                run.begun.wait(BEGIN_TIMEOUT_S)
                self.error = run.failure
                if self.error is not None:
                    self._runner.stop()  # now: the form may be sent again before the shape's next tick
            if self.error is None:
                return response
            return flask.jsonify({"success": False, "message": str(self.error), "host": self._environment.host})

        web_ui.app.view_functions["locust.swarm"] = checked_swarm

    # messages

    def _connected(self) -> list[str]:
        if isinstance(self._runner, MasterRunner):
            clients = self._runner.clients
            return [node.id for node in clients.ready + clients.spawning + clients.running]
        return ["local"]

    def _on_hello(self, worker: str, data: Any) -> None:
        if self._simulator is not None and isinstance(data, dict) and data.get("machine") != machine():
            data = {"error": f"worker {worker} cannot reach the simulator, which listens on the master's machine alone"
                             " (--host names a server that all can reach)"}  # fmt: skip
        self.master.on_hello(worker, data)

    # ending

    def _on_signal(self, number: int) -> None:
        headless = self._environment.parsed_options.headless
        if self._finishing is not None and not self._finishing.is_set():
            self.master.hurry()
        elif headless and self._runner.shape_greenlet is None and self._summary is None:
            logger.info("interrupted before the start of a run")
            self._runner.quit()  # and with it the workers that are there
            interrupt_main(SystemExit(EXIT_FAILED))
        elif number == signal.SIGINT:
            interrupt_main(KeyboardInterrupt())
        elif self._interrupted:
            self.master.hurry()  # before the shape has noticed the first one
        elif headless:  # where Locust itself listens for SIGTERM only once a run is over
            logger.info("SIGTERM: the run is being stopped")
            self._interrupted = True

    def _on_test_stopping(self, **_: Any) -> None:
        self._finish()

    def _on_quitting(self, **_: Any) -> None:
        if self._quitting:
            raise gevent.GreenletExit  # a second SIGTERM: the first one's greenlet goes on with Locust's teardown
        self._quitting = True
        self._finish()
        self._observers.close()
        if self._simulator is not None:
            self._simulator.stop()

    def _on_quit(self, **_: Any) -> None:
        """Locust has printed its tables."""
        if self.error is not None and self._environment.parsed_options.headless:
            _tell(self.error)
        if self._summary is not None and self._environment.web_ui is None:
            self._print_summary()

    def _print_summary(self) -> None:
        if self._summary is not None:  # with Locust's --json, that is all that standard output has
            print_summary(self._summary, sys.stderr if self._environment.parsed_options.json else sys.stdout)

    def _finish(self) -> None:
        """End the run: drain, close the ledger, write the summary."""
        if self._finishing is not None:
            self._finishing.wait()  # the run ends for two reasons at once: once is enough
        run = self.master.run
        if run is None or self._summary is not None:
            return
        self._finishing = Event()
        try:
            self._finish_run(run, self._current)
        finally:
            self._finishing.set()

    def _finish_run(self, run: Run, planned: Planned) -> None:
        deserted = not self._connected()
        self.master.drain(planned.drain_timeout_s)
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if run.failure is not None:
            self._environment.process_exit_code = EXIT_BAD_INPUT
            if run.start_s is None:
                self._refuse(run.failure)
                self._observers.finish(None)
                if run.log is not None:
                    run.log.close(b"{}")
                return
        elif run.book.ledger["unknown"] or (deserted and run.book.ledger["unsent"]):
            self._environment.process_exit_code = EXIT_FAILED
        elif failed(run.book.ledger) and self._environment.process_exit_code is None:
            # by the ledger: a worker's statistics may have been lost on their way to Locust's
            self._environment.process_exit_code = self._environment.parsed_options.exit_code_on_error
        self._summary = summary_of(run, planned.plan, planned.values, self._about())
        kept = checked(self._summary, planned.thresholds, planned.junit and named(planned.junit, run.id))
        self._observers.finish(self._summary)
        if not kept and run.failure is None:
            self._environment.process_exit_code = EXIT_MISSED
        if self._summary["fidelity"]["verdict"] == "invalid" and run.failure is None:
            logger.warning("the load asked for is not the load delivered: %s",
                           "; ".join(self._summary["fidelity"]["reasons"]))  # fmt: skip
            if planned.values.switch("--fail-if-invalid"):
                self._environment.process_exit_code = EXIT_INVALID
        if run.log is not None:
            run.log.close(orjson.dumps(self._summary))
            self._summary["request_log"] |= {"requests": run.log.log.rows, "error": run.log.error}
            self.master.dismiss(run)
        if planned.tables:
            write_tables(run, *(named(path, run.id) for path in planned.tables))
        if planned.output_file is not None:
            write_summary(self._summary, named(planned.output_file, run.id))
        if self._environment.web_ui is not None:
            self._print_summary()
        self._observers.report(run, self._summary)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell(error: InputError) -> None:
    sys.stderr.write(f"locust: error: {error}\n")


def _exit_with(error: InputError) -> NoReturn:
    _tell(error)
    sys.exit(EXIT_BAD_INPUT)


def bind(environment: Any, shape: PlanShape) -> MasterSession | None:
    """Bind this process, whatever its part; the driving side comes back where there is one."""
    if not isinstance(environment.runner, MasterRunner):
        WorkerSession(environment)
    if isinstance(environment.runner, WorkerRunner):
        return None
    return MasterSession(environment, shape)
