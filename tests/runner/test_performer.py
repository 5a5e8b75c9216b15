"""The performer: one event of Locust's for each request that was answered or failed, and rows for our metrics."""

from __future__ import annotations

import itertools
import time

import gevent
import numpy as np
import pytest
from fakes import FakeEnvironment, user_class
from measured import record

from fineserve_shapes.errors import InputError
from fineserve_shapes.leases.lease import Row
from fineserve_shapes.measure.errorkinds import MAX_ERROR_KINDS, OTHER_ERRORS
from fineserve_shapes.measure.records import from_rows
from fineserve_shapes.outcome import OUTCOMES
from fineserve_shapes.runner.performer import UserPerformer
from fineserve_shapes.runner.statistics import METRIC
from fineserve_shapes.users import PlannedRequest, Result

ROW = Row(due_s=1.5, request=7, input_tokens=20, output_tokens=5, stream=0, position=7)


def ended(outcome: str, error: str | None = None) -> Result:
    return Result(outcome, error, 10.0, 10.25, body_bytes=99)


def opened(perform, **options: object) -> tuple[UserPerformer, FakeEnvironment]:
    environment = FakeEnvironment(user_class(perform), **options)
    performer = UserPerformer(environment)
    performer.open()
    return performer, environment


@pytest.mark.parametrize("outcome", [name for name in OUTCOMES if name not in ("unsent", "unknown")])
def test_every_answer_and_every_failure_is_one_event_and_what_we_cancelled_is_none(outcome: str):
    performer, environment = opened(lambda request: ended(outcome, None if outcome == "ok" else "why"))
    result = performer.perform("run", ROW, "prompt 7")
    events = environment.events.request.fired
    assert result.outcome == outcome
    assert len(events) == (outcome != "cancelled")
    for event in events:
        assert (event["request_type"], event["name"]) == ("OPEN", "Fake")
        assert (event["response_time"], event["response_length"]) == (250.0, 99)
        assert event["context"] == {"id": "run-7", "index": 7}
        assert str(event["exception"]) == ("None" if outcome == "ok" else f"{outcome}: why")


def test_a_client_that_fires_its_own_events_gets_no_second_one():
    performer, environment = opened(lambda request: None)
    assert performer.perform("run", ROW, "prompt 7").outcome == "ok"
    assert environment.events.request.fired == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(TimeoutError("slow"), "timeout"), (ConnectionError("refused"), "connect_error"), (KeyError("x"), "stream_error")],
)
def test_what_the_user_raises_is_a_failed_request(error: Exception, outcome: str):
    def perform(request: PlannedRequest) -> Result:
        raise error

    performer, environment = opened(perform)
    assert performer.perform("run", ROW, "prompt 7").outcome == outcome
    (event,) = environment.events.request.fired
    assert str(event["exception"]).startswith(f"{outcome}: {type(error).__name__}")


def test_a_request_that_is_killed_is_cancelled_and_fires_nothing():
    performer, environment = opened(lambda request: gevent.sleep(60))
    greenlet = gevent.spawn(performer.perform, "run", ROW, "prompt 7")
    gevent.sleep(0)
    greenlet.kill()
    assert greenlet.value.outcome == "cancelled"
    assert environment.events.request.fired == []


def test_the_user_gets_the_row_with_its_prompt_made_ahead_or_now():
    seen = []
    performer, environment = opened(lambda request: seen.append(request) or ended("ok"))
    performer.perform("run", ROW, performer.prepare(ROW))
    performer.perform("run", ROW, None)
    (stream,) = {request.stream for request in seen}
    assert (stream.name, stream.number) == ("all", 0)
    assert seen == [PlannedRequest("run-7", 7, 1.5, 20, 5, stream, 7, "prompt 7")] * 2
    (user,) = environment.user_classes[0].instances
    assert [request for request, _ in user.results] == seen


def test_a_warm_up_request_is_shown_nowhere_and_has_a_prompt_of_its_own():
    seen = []
    performer, environment = opened(lambda request: seen.append(request) or ended("http_error", "busy"))
    assert performer.warm_up("run", ROW).outcome == "http_error"
    assert environment.events.request.fired == []
    assert seen[0].id == "run-w7"
    assert seen[0].index > 2**31


def test_kinds_of_failures_are_bounded_since_locust_keeps_each_for_ever():
    numbers = itertools.count()
    performer, environment = opened(lambda request: ended("http_error", f"error no.{next(numbers)}"))
    for _ in range(3 * MAX_ERROR_KINDS):
        performer.perform("run", ROW, "prompt 7")
    texts = [str(event["exception"]) for event in environment.events.request.fired]
    assert len(set(texts)) == MAX_ERROR_KINDS + 1
    assert texts[-1] == f"http_error: {OTHER_ERRORS}"


def test_metrics_are_rows_of_their_own_that_count_as_no_requests():
    performer, environment = opened(lambda request: ended("ok"))
    rows = from_rows([record(0), record(1), record(2, "timeout")])
    performer.measured(rows, {0: np.array([0.02, 0.04, np.nan])})
    entries = environment.stats.entries
    assert {key: entries[key].num_requests for key in list(entries)} == {
        ("TTFT", METRIC): 2, ("TPOT", METRIC): 2, ("ITL", METRIC): 2, ("lag", METRIC): 3, ("output tokens", METRIC): 2,
    }  # fmt: skip
    assert entries["TTFT", METRIC].avg_response_time == pytest.approx(200)
    assert entries["ITL", METRIC].max_response_time == pytest.approx(40)
    assert environment.stats.total.num_requests == 0


@pytest.mark.parametrize("classes", [0, 2])
def test_a_plan_takes_one_user_class(classes: int):
    environment = FakeEnvironment(*(user_class(lambda request: None) for _ in range(classes)))
    with pytest.raises(InputError, match="takes one ArrivalUser class in the locustfile, found"):
        UserPerformer(environment).open()


def test_close_closes_the_user_and_may_be_called_again():
    performer, environment = opened(lambda request: ended("ok"))
    performer.close()
    performer.close()
    assert environment.user_classes[0].instances[0].closed
    assert (performer.first_tokens(), performer.tokens_come()) == ([], {})


def test_an_event_says_when_the_request_was_sent():
    performer, environment = opened(lambda request: Result("ok", None, time.perf_counter() - 2, time.perf_counter()))
    performer.perform("run", ROW, "prompt 7")
    assert environment.events.request.fired[0]["start_time"] == pytest.approx(time.time() - 2, abs=0.5)
