"""Connections that cannot be had, or are lost: whatever becomes of them, a result comes back."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import pytest
from servers import (
    DONE,
    END,
    HEAD,
    Lab,
    Peer,
    black_hole,
    chunk,
    event,
    events,
    failed,
    free_port,
    post,
    settled,
    sized,
    whole,
)

SCHEDULING_S = 0.05  # by how much a loaded machine may be late


# no connection


def test_a_refused_connection_is_a_connect_error(lab: Lab) -> None:
    port = free_port()
    result = post(lab.client(f"http://127.0.0.1:{port}"))
    failed(result, "connect_error", f"no connection to 127.0.0.1:{port}: connection refused")
    assert (result.status, result.first_token_s, result.reused) == (None, None, False)


def test_a_black_hole_is_a_connect_error_at_the_connect_deadline(lab: Lab) -> None:
    with black_hole() as url:
        result = post(lab.client(url, connect_s=0.3))
    failed(result, "connect_error", "within 0.3 s")
    assert 0.29 <= result.e2e_s < 1.5


def test_connecting_takes_no_longer_than_the_whole_request_may(lab: Lab) -> None:
    with black_hole() as url:
        result = post(lab.client(url, connect_s=10, request_s=0.3))
    failed(result, "connect_error", "within 0.3 s")


# connections that are lost


def one_good_then(bad: Callable[[Peer], object]) -> Callable[[Peer], object]:
    """A connection whose first request is answered and whose second meets this."""

    def handle(peer: Peer) -> None:
        if peer.request() is not None:
            peer.send(whole())
            if peer.request() is not None:
                bad(peer)

    return handle


@pytest.mark.parametrize("bad", [Peer.reset, lambda peer: None], ids=["reset", "closed"])
def test_a_reused_connection_lost_before_any_byte_is_retried_once(lab: Lab, bad: Callable[[Peer], object]) -> None:
    server = lab.serve(one_good_then(bad))
    client = lab.client(server.url)
    post(client)
    result = post(client, b"{}")
    assert (result.outcome, result.retried, result.reused) == ("ok", True, False)
    assert server.connections == 2
    assert post(client).retried is True  # and so on: each time a fresh connection


def test_a_request_is_retried_once_and_no_more(lab: Lab) -> None:
    seen = []

    def handle(peer: Peer) -> None:
        if peer.request() is not None:
            seen.append(1)
            if len(seen) == 1:
                peer.send(whole())
                peer.request()
                seen.append(2)
            peer.reset()

    client = lab.client(lab.serve(handle).url)
    post(client)
    result = post(client)
    failed(result, "stream_error", "reset")
    assert (result.retried, result.reused, seen) == (True, False, [1, 2, 1])


def test_the_retry_goes_to_a_fresh_connection_even_if_others_are_idle(lab: Lab) -> None:
    """After a restart of the server every idle connection is stale."""
    together = gevent.event.Event()

    def handle(peer: Peer) -> None:
        if (request := peer.request()) is not None:
            if request.headers["x-request-id"] == "run-0":
                together.wait()
            peer.send(whole())
            if peer.request() is not None:
                peer.reset()

    server = lab.serve(handle)
    client = lab.client(server.url)
    requests = [gevent.spawn(post, client) for _ in range(5)]
    assert settled(lambda: server.connections == 5)
    together.set()
    gevent.joinall(requests)
    result = post(client, request_id="run-1")
    assert (result.outcome, result.retried, result.reused) == ("ok", True, False)


def test_a_retry_that_finds_nobody_is_a_connect_error_marked_retried(lab: Lab) -> None:
    """The server went away: latency counts from the first attempt."""

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(whole())
        peer.request()
        listening.stop()
        peer.reset()

    server = lab.serve(handle)
    listening = lab._servers[0]
    client = lab.client(server.url)
    post(client)
    before_s = time.perf_counter()
    result = post(client)
    failed(result, "connect_error", "refused")
    assert result.retried
    assert abs(result.sent_s - before_s) < SCHEDULING_S


def test_a_reset_on_a_fresh_connection_is_a_stream_error(lab: Lab) -> None:
    server = lab.serve(lambda peer: peer.request() and peer.reset())
    result = post(lab.client(server.url))
    failed(result, "stream_error", "reset")
    assert (result.retried, server.connections) == (False, 1)


@pytest.mark.parametrize("sent", [1, len(HEAD) - 1, len(HEAD), len(HEAD) + 90, len(whole()) - 1])
@pytest.mark.parametrize("bad", [Peer.reset, lambda peer: None], ids=["reset", "closed"])
@pytest.mark.parametrize("on_reused", [False, True])
def test_a_connection_lost_after_the_first_byte_is_a_stream_error(
    lab: Lab, sent: int, bad: Callable[[Peer], object], on_reused: bool
) -> None:
    """It is never retried, since the server may have done the work. An answer that is whole but for its framing is ok,
    however its connection ends."""

    def lose(peer: Peer) -> None:
        peer.send(whole()[:sent])
        gevent.sleep(0.01)
        bad(peer)

    server = lab.serve(one_good_then(lose) if on_reused else lambda peer: peer.request() and lose(peer))
    client = lab.client(server.url)
    if on_reused:
        post(client)
    result = post(client)
    assert (result.retried, result.reused, server.connections) == (False, on_reused, 1)
    if sent == len(whole()) - 1:
        assert result.outcome == "ok"
    else:
        assert result.outcome == "stream_error"
        assert result.error is not None


def ends_late(wait_s: float, more: bytes = b"") -> Callable[[Peer], object]:
    """A server that answers each request whole, up to the last chunk of HTTP's framing, which comes late."""

    def handle(peer: Peer) -> None:
        while peer.request():
            answer = whole()
            peer.send(answer[: -len(END)])
            gevent.sleep(wait_s)
            peer.send(more + END)

    return handle


def test_done_ends_the_answer_and_not_the_connection(lab: Lab) -> None:
    """The terminal chunk comes 0.3 s later: the answer does not wait for it, and its connection serves the next."""
    server = lab.serve(ends_late(0.3))
    client = lab.client(server.url)
    began_s = time.perf_counter()
    first = post(client)
    assert (first.outcome, first.e2e_s < 0.2, time.perf_counter() - began_s < 0.25) == ("ok", True, True)
    gevent.sleep(0.4)
    second = post(client)
    assert (second.outcome, second.reused, server.connections) == ("ok", True, 1)


def test_a_request_beside_a_connection_that_lingers_takes_another(lab: Lab) -> None:
    server = lab.serve(ends_late(0.3))
    client = lab.client(server.url)
    assert [post(client).reused for _ in range(3)] == [False] * 3
    assert server.connections == 3


def test_words_after_done_change_nothing(lab: Lab) -> None:
    server = lab.serve(ends_late(0.05, chunk(event("stray"))))
    client = lab.client(server.url)
    result = post(client)
    assert (result.outcome, result.output_tokens) == ("ok", 3)
    gevent.sleep(0.3)
    assert post(client).reused


def test_a_server_that_does_not_end_http_costs_the_connection_and_not_the_answer(lab: Lab) -> None:
    hung_up: list[float] = []

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(whole()[: -len(END)])
        sent_s = time.perf_counter()
        peer.gone()
        hung_up.append(time.perf_counter() - sent_s)

    server = lab.serve(handle)
    client = lab.client(server.url)
    result = post(client)
    assert (result.outcome, result.error) == ("ok", None)
    assert settled(lambda: len(hung_up) == 1, 3)
    assert 0.9 < hung_up[0] < 1.5
    assert not post(client).reused


def test_a_client_that_is_closed_closes_what_lingers(lab: Lab) -> None:
    gone: list[bool] = []
    server = lab.serve(lambda peer: (peer.request() and peer.send(whole()[: -len(END)])) or gone.append(peer.gone()))
    client = lab.client(server.url)
    post(client)
    client.close()
    assert settled(lambda: gone == [True], 0.5)


def test_a_whole_answer_without_done_and_without_an_end_is_no_timeout(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fineserve_shapes.client.connection._SILENCE_S", 0.2)
    answer = HEAD + b"".join(map(chunk, events()[:-1]))
    server = lab.serve(lambda peer: (peer.request() and peer.send(answer)) or peer.gone())
    result = post(lab.client(server.url))
    assert (result.outcome, result.e2e_s < 0.2) == ("ok", True)


def test_truncation_of_a_body_with_a_length_is_a_stream_error(lab: Lab) -> None:
    answer = sized("200 OK", b"".join(events()))[:-60]
    server = lab.serve(lambda peer: peer.request() and peer.send(answer))
    assert post(lab.client(server.url)).outcome == "stream_error"


def test_a_connection_that_ends_before_an_answer_is_a_stream_error(lab: Lab) -> None:
    failed(post(lab.client(lab.serve(Peer.request).url)), "stream_error", "before an answer")


def test_an_empty_body_is_a_stream_error(lab: Lab) -> None:
    server = lab.answer(sized("200 OK", b""), HEAD + END, sized("200 OK", DONE), whole())
    client = lab.client(server.url)
    for _ in range(3):
        failed(post(client), "stream_error", "no choice")
    assert [post(client).outcome, server.connections] == ["ok", 1]
