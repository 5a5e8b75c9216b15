"""The worker's session: what it registers with Locust, and what Locust's events do to the worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from fakes import FakeEnvironment, FakeLocalRunner, FakeWorkerRunner

from fineserve_shapes.leases import messages
from fineserve_shapes.runner import workersession
from fineserve_shapes.runner.performer import UserPerformer
from fineserve_shapes.runner.workersession import WorkerSession

BLOCKING = {messages.DRAIN, messages.WARM_UP}
LISTENERS = {messages.BEGIN, messages.LEASE, messages.END, messages.PONG} | BLOCKING


class FakeWorker:
    """Remembers what it is told."""

    def __init__(self, send: Any, *, local: bool, finished: Any, name: str) -> None:
        self.send, self.local, self.finished, self.name = send, local, finished, name
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in (
            "on_begin",
            "on_lease",
            "on_end",
            "on_pong",
            "on_drain",
            "on_warm_up",
            "start",
            "stop",
            "leave",
        ):
            raise AttributeError(name)
        return lambda *arguments: self.told.append((name, *arguments))


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No worker that sends, no handlers of this process's signals, and Locust's parser as it was."""
    listening: list[Any] = []
    monkeypatch.setattr(workersession, "Worker", FakeWorker)
    monkeypatch.setattr(workersession, "on_signals", listening.append)
    parser = workersession.argument_parser
    monkeypatch.setattr(parser, "default_args_dict", parser.default_args_dict)
    return listening


def test_every_message_has_a_listener_and_those_that_block_are_concurrent():
    runner = FakeWorkerRunner()
    session = WorkerSession(FakeEnvironment(runner=runner))
    assert set(runner.registered) == LISTENERS
    assert {kind for kind, (_, concurrent) in runner.registered.items() if concurrent} == BLOCKING
    for listener, _ in runner.registered.values():
        listener(environment=None, msg=type("Message", (), {"data": {"n": 1}}))
    assert sorted(session.worker.told) == sorted(
        (name, {"n": 1}) for name in ("on_begin", "on_lease", "on_end", "on_pong", "on_drain", "on_warm_up")
    )


def test_in_one_process_those_that_block_have_greenlets_of_their_own():
    """A local runner knows no concurrent listeners: the driving side would stand still."""
    runner = FakeLocalRunner()
    session = WorkerSession(FakeEnvironment(runner=runner))
    for kind in BLOCKING:
        runner.registered[kind][0](environment=None, msg=type("Message", (), {"data": {}}))
    assert session.worker.told == []
    gevent.sleep(0.01)
    assert {name for name, *_ in session.worker.told} == {"on_drain", "on_warm_up"}


@pytest.mark.parametrize(("runner", "local"), [(FakeLocalRunner(), True), (FakeWorkerRunner(), False)])
def test_a_process_of_its_own_listens_to_signals_and_knows_that_it_is_one(runner: Any, local: bool, signals: list[Any]):
    session = WorkerSession(FakeEnvironment(runner=runner))
    assert (session.worker.local, len(signals)) == (local, int(not local))
    session.worker.send("fineserve.x", {"n": 1})
    assert runner.sent == [("fineserve.x", {"n": 1})]


def test_tests_start_and_stop_the_worker_and_quitting_gives_it_the_drains_time():
    environment = FakeEnvironment(runner=FakeWorkerRunner(), drain_timeout="12")
    session = WorkerSession(environment)
    environment.events.test_start.fire(environment=environment)
    environment.events.test_stop.fire(environment=environment)
    environment.events.quitting.fire(environment=environment)
    (start, performer), *rest = session.worker.told
    assert (start, type(performer)) == ("start", UserPerformer)
    assert rest == [("stop",), ("leave", 12.0), ("stop",)]


def test_a_second_interrupt_cancels_what_is_in_flight(signals: list[Any]):
    environment = FakeEnvironment(runner=FakeWorkerRunner(), drain_timeout="12")
    session = WorkerSession(environment)
    environment.events.quitting.fire(environment=environment)
    signals[0](2)
    assert session.worker.told[-1] == ("leave", 0.0)
    with pytest.raises(gevent.GreenletExit):
        environment.events.quitting.fire(environment=environment)


def test_a_late_joiner_starts_at_once():
    """It may have been told to start before its listeners were in place."""
    runner = FakeWorkerRunner()
    runner.worker_state = "running"
    assert WorkerSession(FakeEnvironment(runner=runner)).worker.told[0][0] == "start"


@pytest.mark.parametrize(("runner", "times"), [(FakeLocalRunner(), 0), (FakeWorkerRunner(), 1)])
def test_the_last_statistics_leave_at_once_where_there_is_a_master(runner: Any, times: int):
    WorkerSession(FakeEnvironment(runner=runner)).worker.finished()
    assert runner.statistics_sent == times
