"""A Locust process as far as our side of it looks: nothing is started, and nothing is sent."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from locust.runners import STATE_INIT, LocalRunner, WorkerRunner
from locust.stats import RequestStats

from fineserve_shapes.users import ArrivalUser, PlannedRequest, Result


class FakeEvent:
    """Remembers who listens and what was fired."""

    def __init__(self) -> None:
        self.listeners: list[Callable[..., None]] = []
        self.fired: list[dict[str, Any]] = []

    def add_listener(self, handler: Callable[..., None]) -> None:
        self.listeners.append(handler)

    def fire(self, **arguments: Any) -> None:
        self.fired.append(arguments)
        for listener in self.listeners:
            listener(**arguments)


class FakeEvents:
    """Those of one environment."""

    def __init__(self) -> None:
        self.request, self.test_start, self.test_stop = FakeEvent(), FakeEvent(), FakeEvent()
        self.test_stopping, self.quitting, self.quit = FakeEvent(), FakeEvent(), FakeEvent()


class RunnerMemory:
    """What both runners below do: remember messages and registrations."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.registered: dict[str, tuple[Callable[..., None], bool]] = {}
        self.worker_state = STATE_INIT
        self.client_id = "fake"
        self.greenlet = None  # Locust stops it when a runner is collected
        self.statistics_sent = 0

    def send_message(self, kind: str, data: Any = None) -> None:
        self.sent.append((kind, data))

    def register_message(self, kind: str, listener: Callable[..., None], concurrent: bool = False) -> None:
        self.registered[kind] = (listener, concurrent)

    def _send_stats(self) -> None:
        self.statistics_sent += 1


class FakeLocalRunner(RunnerMemory, LocalRunner):
    """A single process's."""


class FakeWorkerRunner(RunnerMemory, WorkerRunner):
    """A worker's."""


class FakeEnvironment:
    """`runner.environment.Environment` without a Locust behind it; its statistics are Locust's own."""

    def __init__(self, *user_classes: type, runner: Any = None, **options: Any) -> None:
        self.user_classes = list(user_classes)
        self.runner = runner
        self.parsed_options = Namespace(**options)
        self.events = FakeEvents()
        self.stats = RequestStats()
        self.host: str | None = None
        self.web_ui: Any = None
        self.process_exit_code: int | None = None


def user_class(perform: Callable[[PlannedRequest], Result | None]) -> type[ArrivalUser]:
    """A user that performs so. Its instances remember the results that they were told, and whether they were closed."""

    class Fake(ArrivalUser):
        instances: list[Any] = []  # noqa: RUF012

        def __init__(self, environment: Any) -> None:
            self.environment = environment
            self.results: list[tuple[PlannedRequest, Result]] = []
            self.closed = False
            self.instances.append(self)

        def on_start(self) -> None: ...

        def on_stop(self) -> None: ...

        def prepare(self, request: PlannedRequest) -> str:
            return f"prompt {request.index}"

        def perform(self, request: PlannedRequest) -> Result | None:
            return perform(request)

        def result(self, request: PlannedRequest, result: Result) -> None:
            self.results.append((request, result))

        def close(self) -> None:
            self.closed = True

    return Fake
