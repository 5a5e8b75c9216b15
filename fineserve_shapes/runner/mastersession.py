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
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn

import flask
import gevent
from locust.runners import MasterRunner, WorkerRunner

from fineserve_shapes import options
from fineserve_shapes.engine.master import Master
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases import messages
from fineserve_shapes.machine import machine
from fineserve_shapes.runner.conclusion import About
from fineserve_shapes.runner.conductor import Conductor
from fineserve_shapes.runner.environment import host_of_class
from fineserve_shapes.runner.exits import EXIT_BAD_INPUT, EXIT_FAILED
from fineserve_shapes.runner.interrupts import interrupt_main, on_signals
from fineserve_shapes.runner.mailbox import Mailbox
from fineserve_shapes.runner.observers import Observers
from fineserve_shapes.runner.planned import Planned
from fineserve_shapes.runner.standin import StandIn
from fineserve_shapes.runner.step import Step
from fineserve_shapes.runner.workersession import WorkerSession
from fineserve_shapes.streams import Stream, publish
from fineserve_shapes.values import Values
from fineserve_shapes.workload.plan import Plan

if TYPE_CHECKING:
    from fineserve_shapes.shapes import PlanShape

logger = logging.getLogger(__name__)

BEGIN_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0
FORKED_TIMEOUT_S = 10.0


class MasterSession:
    """The driving side of a process."""

    def __init__(self, environment: Any, shape: PlanShape) -> None:
        self._environment = environment
        self._shape = shape
        self._runner = environment.runner
        self._stand_in = StandIn()
        self._interrupted = False
        self._quitting = self._stopping = False
        self._ended = False  # there is no other run in this test
        self._planned: Planned | None = None  # the first run of the next test
        self._runs: Generator[Plan | Step, dict[str, Any], None] | None = None  # those that follow
        self._streams: tuple[Stream, ...] = ()  # of all runs of the test
        self._turning: gevent.Greenlet | None = None  # from one run to the next
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
            self._exit_with(error)
        if environment.web_ui is not None:
            self._wrap_swarm(environment.web_ui)
        self._signals = on_signals(self._on_signal)
        if isinstance(self._runner, MasterRunner) and not _is_loopback(self._runner.master_bind_host):
            logger.warning("the master listens on %s port %s: whoever reaches it can take part and read the options; it"
                           " is neither encrypted nor authenticated", self._runner.master_bind_host,
                           self._runner.master_bind_port)  # fmt: skip
        given = environment.parsed_options
        shows_progress = given.headless and not given.print_stats
        if shows_progress:
            given.only_summary = True  # one line in the place of Locust's table every two seconds
        self._conductor = Conductor(
            environment, self.master, self._observers, self._about, self._refuse, shows_progress=shows_progress
        )
        if given.headless:
            try:  # now, before workers connect and anything starts
                self._planned = self._first()
            except InputError as error:
                self._exit_with(error)

    # for the shape

    @property
    def workers(self) -> int:
        """How many processes send."""
        return int(self._runner.worker_count)

    @property
    def over(self) -> bool:
        """Whether the test is to be stopped now. Where a run is over it turns to the next, and waits for that."""
        if not self._interrupted and not self._ended:
            if self._turning is None or self._turning.ready():
                run = self.master.run
                if run is None or not (run.over or self._conductor.enough):
                    return False
                self._turning = gevent.spawn(self._turn)  # not here: Locust kills the shape's greenlet when it stops
            self._turning.join()
        return self._interrupted or self._ended

    # starting

    def _checked_start_shape(self) -> None:
        """Start a test, or keep the reason why that cannot be."""
        if self._conductor.finished:  # the run before has ended, but Locust may not be through with it
            until_s = time.perf_counter() + END_TIMEOUT_S
            while self._runner.shape_greenlet is not None and time.perf_counter() < until_s:
                gevent.sleep(0.05)
        if self._runner.shape_greenlet is not None:
            self.error = InputError("a run is still going on: stop it first")
            self._start_shape()  # Locust says so in its log
            return
        self.error = self._turning = None
        self._interrupted = self._stopping = self._ended = False
        self._conductor.forget()
        try:
            planned, self._planned = self._planned or self._first(), None
            self._streams = self._stand_in.provide(planned.streams, self._environment)
            publish(self._streams, self._environment.parsed_options)
            self._conductor.begin(planned)
        except InputError as error:
            self._refuse(error)
            if self._environment.parsed_options.headless:
                self._runner.shape_greenlet = gevent.spawn(lambda: None)  # Locust waits for it, and ends
            return
        self._start_shape()

    def _first(self) -> Planned:
        """The first run of a test, by the options as they are now."""
        values = Values(self._environment.parsed_options)
        self._streams = self._shape.streams_of(values)
        self._runs = self._shape.runs(values)
        try:
            plan = next(self._runs)
        except StopIteration:
            raise InputError(f"{type(self._shape).__name__}.runs yields no plan") from None
        return self._conductor.planned(plan, self._streams, values)

    def _turn(self) -> None:
        """End the run, and begin the next if there is one."""
        self._ended = True
        try:
            self._conductor.finish()
        except Exception:  # the test must end all the same
            logger.exception("the end of the run failed")
            self._environment.process_exit_code = EXIT_FAILED
            return
        summary = self._conductor.summary
        if summary is None or summary["error"] is not None or self._stopping or self._runs is None:
            return
        try:
            plan, values = self._runs.send(summary), Values(self._environment.parsed_options)
            planned = self._conductor.planned(plan, self._streams, values)
            if not self._stopping:
                if self._environment.web_ui is None:
                    self._conductor.print_step()  # that has ended; the summary of the last one comes at the end
                self._conductor.begin(planned)
                self._ended = False
        except StopIteration:
            pass
        except InputError as error:
            logger.error("the next run cannot start: %s", error)
            self._environment.process_exit_code = EXIT_BAD_INPUT
        except Exception:  # of the shape: Locust would go on with it for ever
            logger.exception("%s.runs failed", type(self._shape).__name__)
            self._environment.process_exit_code = EXIT_FAILED

    def _about(self) -> About:
        """What a run itself does not know."""
        environment = self._environment
        of_class = host_of_class(environment)
        hosts = [options.host(stream.own, environment.host, of_class) for stream in self._streams]
        host = ", ".join(dict.fromkeys(found for found in hosts if found)) or None
        return About(self._shape.mode, host, host is not None and host == self._stand_in.url, tuple(hosts))

    def _refuse(self, error: InputError) -> None:
        """A run cannot start. Without a web UI that is the last line of all, and no empty tables stand before it."""
        self.error = error
        if not self._environment.parsed_options.headless:
            logger.error("%s", error)
            return
        self._environment.process_exit_code = EXIT_BAD_INPUT
        logging.getLogger("locust.stats_logger").disabled = True

    def _exit_with(self, error: InputError) -> NoReturn:
        """Nothing can start."""
        if self._environment.parsed_options.processes:
            self._send_forked_home(self._environment.parsed_options.processes)
        _tell(error)
        sys.exit(EXIT_BAD_INPUT)

    def _send_forked_home(self, forked: int) -> None:
        """Locust forgets the workers that it has forked where no test begins: they would wait a minute for their master."""
        heard: set[str] = set()  # a worker that is told before its first heartbeat would never end
        self._environment.events.heartbeat_sent.add_listener(lambda client_id, **_: heard.add(client_id))
        until_s = time.perf_counter() + FORKED_TIMEOUT_S
        while len(heard) < forked and time.perf_counter() < until_s:
            gevent.sleep(0.02)
        self._runner.send_message("quit")
        while self._runner.clients and time.perf_counter() < until_s:  # they say goodbye
            gevent.sleep(0.02)

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
        if self._stand_in.url is not None and isinstance(data, dict) and data.get("machine") != machine():
            data = {"error": f"worker {worker} cannot reach the simulator, which listens on the master's machine alone"
                             " (--host names a server that all can reach)"}  # fmt: skip
        self.master.on_hello(worker, data)

    # ending

    def _on_signal(self, number: int) -> None:
        headless = self._environment.parsed_options.headless
        if self._conductor.finishing:
            self.master.hurry()
        elif headless and self._runner.shape_greenlet is None and self._conductor.summary is None:
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
        self._stopping = True
        self._conductor.finish()
        self.master.disband()

    def _on_quitting(self, **_: Any) -> None:
        if self._quitting:
            raise gevent.GreenletExit  # a second SIGTERM: the first one's greenlet goes on with Locust's teardown
        self._quitting = True
        self._stopping = True
        self._conductor.finish()
        self._observers.close()
        self._stand_in.stop()

    def _on_quit(self, **_: Any) -> None:
        """Locust has printed its tables."""
        if self.error is not None and self._environment.parsed_options.headless:
            _tell(self.error)
        if self._environment.web_ui is None:
            self._conductor.print_summary()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell(error: InputError) -> None:
    sys.stderr.write(f"locust: error: {error}\n")


def bind(environment: Any, shape: PlanShape) -> MasterSession | None:
    """Bind this process, whatever its part; the driving side comes back where there is one."""
    if not isinstance(environment.runner, MasterRunner):
        WorkerSession(environment)
    if isinstance(environment.runner, WorkerRunner):
        return None
    return MasterSession(environment, shape)
