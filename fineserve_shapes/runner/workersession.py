"""Worker session: the sending side of a process, bound to Locust's runner."""

from __future__ import annotations

import functools
import logging
import signal
from typing import Any

import gevent
from locust import argument_parser
from locust.runners import STATE_INIT, LocalRunner, WorkerRunner

from fineserve_shapes.engine.worker import Worker
from fineserve_shapes.leases import messages
from fineserve_shapes.options import drain_timeout_s
from fineserve_shapes.runner.environment import Environment
from fineserve_shapes.runner.interrupts import interrupt_main, on_signals
from fineserve_shapes.runner.mailbox import Mailbox
from fineserve_shapes.runner.performer import UserPerformer
from fineserve_shapes.values import Values

logger = logging.getLogger(__name__)


class WorkerSession:
    """The sending side of a process."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        # Locust parses its own command line some fifty times over for every spawn message, which holds up the requests
        # of this process for 0.1 s and more whenever another worker joins. The answer is always the same.
        argument_parser.default_args_dict = functools.cache(argument_parser.default_args_dict)
        runner = environment.runner
        local = isinstance(runner, LocalRunner)
        self.worker = Worker(
            lambda kind, data: runner.send_message(kind, data),
            local=local,
            finished=self._send_statistics,
            name=getattr(runner, "client_id", "local"),
        )
        mailbox = Mailbox()
        for kind, listener in (
            (messages.BEGIN, self.worker.on_begin),
            (messages.LEASE, self.worker.on_lease),
            (messages.END, self.worker.on_end),
            (messages.PONG, self.worker.on_pong),
        ):
            runner.register_message(kind, mailbox.listener(listener))
        # Waiting for requests in flight must not hold up other messages; a single process's runner knows no concurrent
        # ones, and its driving side would stand still for as long.
        for kind, listener in ((messages.DRAIN, self.worker.on_drain), (messages.WARM_UP, self.worker.on_warm_up)):
            take = mailbox.listener(listener)
            runner.register_message(kind, functools.partial(gevent.spawn, take) if local else take, concurrent=True)
        environment.events.test_start.add_listener(self._on_test_start)
        environment.events.test_stop.add_listener(self._on_test_stop)
        environment.events.quitting.add_listener(self._on_quitting)
        self._quitting = False
        if not local:  # else the driving side listens
            self._signals = on_signals(self._on_signal)
            if runner.worker_state != STATE_INIT:  # a late joiner may be told to start before all this is in place
                self._on_test_start()

    def _on_test_start(self, **_: Any) -> None:
        self.worker.start(UserPerformer(self._environment))

    def _on_test_stop(self, **_: Any) -> None:
        self.worker.stop()

    def _on_quitting(self, **_: Any) -> None:
        """This process ends, which need not be the end of the run: requests in flight have the drain's time."""
        if self._quitting:
            raise gevent.GreenletExit  # a second SIGTERM: the first one's greenlet goes on with Locust's teardown
        self._quitting = True
        self.worker.leave(drain_timeout_s(Values(self._environment.parsed_options)))
        self.worker.stop()

    def _on_signal(self, number: int) -> None:
        if self._quitting:
            logger.warning("interrupted again: requests in flight are cancelled")
            self.worker.leave(0.0)
        elif number == signal.SIGINT:
            interrupt_main(KeyboardInterrupt())
        # else Locust's own handler of SIGTERM begins to quit

    def _send_statistics(self) -> None:
        """Locust's own, now rather than in three seconds: the master stops listening soon after."""
        if isinstance(self._environment.runner, WorkerRunner):
            self._environment.runner._send_stats()
