"""Answers of 429: recorded by default, and sent again only where asked for, after as long as the server says."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Lab, Peer, post, sized, whole

from fineserve_shapes.client.retry import MAX_WAIT_S, Retry429, retry_after_s
from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.result import Result


def refusing(times: int, *headers: str) -> object:
    left = [times]

    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            left[0] -= 1
            peer.send(sized("429 Too Many Requests", b"busy", *headers) if left[0] >= 0 else whole())

    return handle


def test_a_429_is_recorded_and_not_sent_again_unless_asked(lab: Lab) -> None:
    server = lab.serve(refusing(1, "Retry-After: 0"))
    client = lab.client(server.url)
    result = Retry429().perform(lambda: post(client))
    assert (result.outcome, result.status, result.retried) == ("http_error", 429, False)
    assert result.retry_after_s == 0.0


def test_a_429_is_sent_again_after_the_time_that_the_server_asks_for(lab: Lab) -> None:
    server = lab.serve(refusing(2, "Retry-After: 1"))
    client = lab.client(server.url)
    before_s = time.perf_counter()
    result = Retry429(3).perform(lambda: post(client))
    assert (result.outcome, result.retried) == ("ok", True)
    assert result.sent_s - before_s < 0.1  # sent is when it was first sent
    assert result.end_s - result.sent_s > 2.0


def test_retries_are_bounded(lab: Lab) -> None:
    client = lab.client(lab.serve(refusing(100, "Retry-After: 0")).url)
    tries = []
    result = Retry429(4).perform(lambda: tries.append(1) or post(client))
    assert (len(tries), result.status, result.retried) == (5, 429, True)


def refusal(sent_s: float, wait_s: float | None) -> Result:
    return Result("http_error", "HTTP 429", sent_s, sent_s + 0.1, status=429, retry_after_s=wait_s)


def test_no_attempt_begins_after_the_time_for_the_whole_request() -> None:
    tries = []
    result = Retry429(5, within_s=10).perform(lambda: tries.append(1) or refusal(0.0, 50.0))
    assert (len(tries), result.outcome) == (1, "http_error")


def test_a_server_that_asks_for_years_gets_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []
    monkeypatch.setattr(gevent, "sleep", slept.append)
    Retry429(2).perform(lambda: refusal(0.0, 1e9))
    assert slept == [MAX_WAIT_S, MAX_WAIT_S]


def test_without_the_header_the_wait_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []
    monkeypatch.setattr(gevent, "sleep", slept.append)
    Retry429(4).perform(lambda: refusal(0.0, None))
    assert slept == [1.0, 2.0, 4.0, 8.0]


def test_a_stop_in_the_wait_is_a_cancellation() -> None:
    greenlet = gevent.spawn(Retry429(1).perform, lambda: refusal(0.0, 30.0))
    gevent.sleep(0.01)
    greenlet.kill()
    assert greenlet.value.outcome == "cancelled"


def test_a_date_is_a_wait_too() -> None:
    at = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after_s(format_datetime(at, usegmt=True).encode()) == pytest.approx(30, abs=1.5)
    assert retry_after_s(b"Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode()))
def test_any_header_is_a_wait_or_none(value: bytes) -> None:
    found = retry_after_s(value)
    assert found is None or found >= 0


@pytest.mark.parametrize("count", [-1, 101])
def test_a_senseless_number_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=r"--rate-limit-retries must lie in 0\.\.100"):
        Retry429(count)
