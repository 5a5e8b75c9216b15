"""The client against servers that behave and servers that do not: whatever they do, a result comes back."""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import monkey
from gevent.hub import get_hub
from servers import (
    DONE,
    END,
    HEAD,
    PATH,
    UNFRAMED,
    Lab,
    Peer,
    black_hole,
    chunk,
    descriptors,
    event,
    events,
    free_port,
    post,
    settled,
    sized,
    whole,
)

from fineserve_shapes.client.client import Client
from fineserve_shapes.client.connection import Deadlines
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.target import Target
from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.simulator.process import SimulatorProcess

_block = monkey.get_original("time", "sleep")

SCHEDULING_S = 0.05  # by how much a loaded machine may be late
MB = 2**20


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(ttft_ms=400, itl_ms=50, hostile_text=True) as simulator:
        yield simulator


def failed(result: Result, outcome: str, text: str) -> None:
    assert (result.outcome, text in str(result.error)) == (outcome, True), result
    assert result.error is not None
    assert len(result.error) <= 300
    assert result.error.isprintable()


# a whole answer


def test_an_answer_becomes_a_result(lab: Lab) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4}}\n\n'
    pieces = [event(), event() + event(), event(finish="stop") + usage + DONE]
    answer = HEAD + b"".join(chunk(piece) for piece in pieces) + END
    result = post(lab.client(lab.answer(answer).url), asked=4)
    assert result.body_bytes == sum(map(len, pieces))
    assert (result.outcome, result.error, result.status, result.finish_reason) == ("ok", None, 200, "stop")
    assert (result.input_tokens, result.output_tokens, result.tokens_from) == (7, 4, "usage")
    assert (result.short, result.retried, result.reused) == (False, False, False)
    assert result.first_token_s is not None
    assert result.last_token_s is not None
    assert result.sent_s <= result.first_token_s <= result.last_token_s <= result.end_s


def test_the_request_is_http_with_the_id_the_length_and_the_headers(lab: Lab) -> None:
    server = lab.answer(whole())
    body = b'{"prompt":[1,2,3]}'
    post(lab.client(server.url, headers={"Authorization": "Bearer key"}), body, request_id="run-17")
    (request,) = server.requests
    assert request.line == f"POST {PATH} HTTP/1.1"
    assert request.body == body
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "authorization": "Bearer key",
        "x-request-id": "run-17",
        "content-length": str(len(body)),
    }


def pieces(answer: bytes, size: int) -> Callable[[Peer], object]:
    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            for start in range(0, len(answer), size):
                peer.send(answer[start : start + size])
                gevent.sleep(0)

    return handle


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_an_answer_split_anywhere_is_the_same_answer(lab: Lab, size: int) -> None:
    client = lab.client(lab.serve(pieces(whole(), size)).url)
    for reused in (False, True):
        result = post(client)
        assert (result.outcome, result.output_tokens, result.reused) == ("ok", 3, reused)


def test_a_body_chunked_byte_by_byte(lab: Lab) -> None:
    body = b"".join(events())
    answer = HEAD + b"".join(chunk(body[index : index + 1]) for index in range(len(body))) + END
    assert post(lab.client(lab.answer(answer).url)).output_tokens == 3


def test_a_body_with_a_length(lab: Lab) -> None:
    client = lab.client(lab.answer(sized("200 OK", b"".join(events()))).url)
    assert [post(client).outcome, post(client).reused] == ["ok", True]


def test_an_answer_that_is_no_stream(lab: Lab) -> None:
    body = b'{"choices":[{"index":0,"text":"a b","finish_reason":"length"}],"usage":{"completion_tokens":2}}'
    result = post(lab.client(lab.answer(sized("200 OK", body)).url), asked=2)
    assert (result.outcome, result.output_tokens, result.first_token_s) == ("ok", 2, None)


@pytest.mark.parametrize(
    "head",
    [UNFRAMED, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"],
)
def test_an_answer_without_a_length_ends_with_its_connection(lab: Lab, head: bytes) -> None:
    server = lab.serve(lambda peer: peer.request() and peer.send(head + b"".join(events())))
    client = lab.client(server.url)
    assert [(result.outcome, result.reused) for result in (post(client), post(client))] == [("ok", False)] * 2
    assert server.connections == 2


def test_connection_close_with_a_length_is_not_reused(lab: Lab) -> None:
    server = lab.answer(sized("200 OK", b"".join(events()), "Connection: close"))
    client = lab.client(server.url)
    assert [post(client).outcome, post(client).outcome] == ["ok", "ok"]
    assert server.connections == 2


@pytest.mark.parametrize(
    "interim",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3],
)
def test_interim_answers_come_before_the_answer(lab: Lab, interim: bytes) -> None:
    client = lab.client(lab.answer(interim + whole()).url)
    assert [(result.outcome, result.status) for result in (post(client), post(client))] == [("ok", 200)] * 2


def test_an_interim_answer_with_a_length_says_nothing_about_the_answer(lab: Lab) -> None:
    interim = b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n"
    server = lab.serve(lambda peer: peer.request() and peer.send(interim + UNFRAMED + event()))
    failed(post(lab.client(server.url)), "stream_error", "without a finish_reason")


# connections


def test_one_connection_serves_sequential_requests(lab: Lab) -> None:
    server = lab.answer(whole())
    client = lab.client(server.url)
    assert [post(client).reused for _ in range(5)] == [False, True, True, True, True]
    assert server.connections == 1


def test_connections_are_not_capped_and_the_newest_is_taken_first(lab: Lab) -> None:
    used: list[tuple[str, int]] = []
    go = gevent.event.Event()

    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            used.append((request.headers["x-request-id"], peer.sock.fileno()))
            if request.headers["x-request-id"].startswith("first"):
                go.wait()
                gevent.sleep(0.002 * int(request.headers["x-request-id"].rpartition("-")[2]))
            peer.send(whole())

    server = lab.serve(handle)
    client = lab.client(server.url)
    requests = [gevent.spawn(post, client, request_id=f"first-{number}") for number in range(50)]
    assert settled(lambda: len(used) == 50)
    go.set()
    assert {result.outcome for result in (request.get() for request in requests)} == {"ok"}
    assert server.connections == 50
    fd_of = dict(used)
    for _ in range(3):
        assert post(client, request_id="then").reused
    assert used[50:] == [("then", fd_of["first-49"])] * 3
    assert server.connections == 50


def test_a_connection_that_the_server_closes_while_idle_is_not_used_again(lab: Lab) -> None:
    before = descriptors()
    server = lab.serve(lambda peer: peer.request() and peer.send(whole()))
    client = lab.client(server.url)
    post(client)
    assert settled(lambda: descriptors() == before + 1)  # the listening socket
    result = post(client)
    assert (result.outcome, result.reused, result.retried) == ("ok", False, False)


def test_words_on_an_idle_connection_spoil_it(lab: Lab) -> None:
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(whole())
        gevent.sleep(0.02)
        peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        peer.gone()

    server = lab.serve(handle)
    client = lab.client(server.url)
    post(client)
    gevent.sleep(0.05)
    assert post(client).reused is False


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Oops", "503 Busy"])
def test_an_http_error_has_its_text_and_leaves_a_connection_to_use(lab: Lab, status: str) -> None:
    error = sized(status, b'{"error":{"message":"no such luck","code":1}}', "Retry-After: 1")
    server = lab.answer(error, whole())
    client = lab.client(server.url)
    result = post(client)
    assert (result.outcome, result.error) == ("http_error", f"HTTP {status[:3]}: no such luck")
    assert result.status == int(status[:3])
    assert [post(client).outcome, server.connections] == ["ok", 1]


def test_two_thousand_streams_at_once_and_no_descriptor_left_behind(lab: Lab, simulator: SimulatorProcess) -> None:
    """All of them are open at the same time: the first token takes longer than sending them all."""
    before = descriptors()
    client = lab.client(simulator.url, progress_s=15, request_s=15)
    body = b'{"model":"simulated","prompt":[1,2,3],"max_tokens":3,"stream":true,"ignore_eos":true}'
    requests = [gevent.spawn(post, client, body, request_id=f"run-{number}") for number in range(2000)]
    open_most = before
    while not all(request.ready() for request in requests):
        open_most = max(open_most, descriptors())
        gevent.sleep(0.1)
    outcomes = [(request.value.outcome, request.value.output_tokens) for request in requests]
    assert outcomes == [("ok", 3)] * 2000
    assert open_most > before + 1000
    client.close()
    assert descriptors() == before


def test_a_connection_closed_by_the_client_is_gone_for_the_server(lab: Lab) -> None:
    gone = []

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(whole())
        gone.append(peer.gone())

    client = lab.client(lab.serve(handle).url)
    post(client)
    client.close()
    client.close()
    assert settled(lambda: gone == [True])


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


# deadlines


def silence(peer: Peer) -> object:
    return peer.request() and peer.gone()


def silence_after_headers(peer: Peer) -> object:
    return peer.request() and (peer.send(HEAD), peer.gone())


def stall(peer: Peer) -> object:
    return peer.request() and (peer.send(HEAD + chunk(event()) + chunk(event())), peer.gone())


def comments(peer: Peer) -> None:
    """Keep-alive comments for ever, every now and then."""
    peer.request()
    peer.send(HEAD + chunk(event()))
    while True:
        peer.send(chunk(b": keep-alive\n\n"))
        gevent.sleep(0.03)


def empty_events(peer: Peer) -> None:
    """Events without a choice, for ever."""
    peer.request()
    peer.send(HEAD)
    while True:
        peer.send(chunk(b'event: ping\ndata: {"choices":[]}\n\n'))
        gevent.sleep(0.03)


@pytest.mark.parametrize("handle", [silence, silence_after_headers, stall, comments, empty_events])
def test_no_progress_is_a_timeout(lab: Lab, handle: Callable[[Peer], object]) -> None:
    """Only tokens are progress; what came before the end is kept."""
    before = descriptors()
    result = post(lab.client(lab.serve(handle).url, progress_s=0.3))
    failed(result, "timeout", "no progress for 0.3 s")
    since_s = result.last_token_s or result.sent_s
    assert 0.29 <= result.end_s - since_s < 1.5
    assert len(result.chunk_times_s) == {"stall": 2, "comments": 1}.get(handle.__name__, 0)
    assert settled(lambda: descriptors() == before + 1)


def test_the_request_deadline_ends_an_answer_that_makes_progress(lab: Lab) -> None:
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        while True:
            peer.send(chunk(event()))
            gevent.sleep(0.02)

    result = post(lab.client(lab.serve(handle).url, progress_s=0.2, request_s=0.6), asked=10_000)
    failed(result, "timeout", "no end of the answer within 0.6 s")
    assert 0.59 <= result.e2e_s < 2
    assert result.output_tokens is not None
    assert result.output_tokens > 5


def test_an_error_event_and_then_silence_is_the_error(lab: Lab) -> None:
    answer = HEAD + chunk(event()) + chunk(b'data: {"error":{"message":"engine dead","code":500}}\n\n')
    server = lab.serve(lambda peer: peer.request() and (peer.send(answer), peer.gone()))
    failed(post(lab.client(server.url, progress_s=0.2)), "stream_error", "engine dead")


@pytest.mark.parametrize("deadline", ["connect_s", "progress_s", "request_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_deadlines_are_positive(deadline: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"--{deadline[:-2]}-timeout must be positive, got {value:g}"):
        Deadlines(**{deadline: value})


# too much, and what is not HTTP


def flood(head: bytes, piece: bytes, limit: int, sent: list[int]) -> Callable[[Peer], object]:
    """Send a piece over and over, up to a limit or until the client hangs up; note how much."""

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(head)
        sent[0] = 0
        while sent[0] < limit:
            peer.send(piece)
            sent[0] += len(piece)
            gevent.sleep(0)
        peer.gone()

    return handle


@pytest.mark.parametrize("head", [UNFRAMED + b"data: ", HEAD + b"%x\r\n" % (100 * MB) + b'data: {"choices'])
def test_a_line_of_100_mb_is_given_up_in_bounded_memory(lab: Lab, head: bytes) -> None:
    before = descriptors()
    sent = [0]
    client = lab.client(lab.serve(flood(head, MB * b"x", 100 * MB, sent)).url)
    tracemalloc.start()
    try:
        result = post(client)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    failed(result, "stream_error", "an event of more than 16777216 bytes")
    assert peak < 64 * MB
    assert sent[0] < 40 * MB
    assert settled(lambda: descriptors() == before + 1)


def test_an_object_of_100_mb_is_given_up(lab: Lab) -> None:
    sent = [0]
    client = lab.client(lab.serve(flood(UNFRAMED + b'{"text":"', MB * b"x", 100 * MB, sent)).url)
    failed(post(client), "stream_error", "an answer of more than 16777216 bytes")
    assert sent[0] < 40 * MB


FLOODS = {
    "status line": b"HTTP/1.1 200 ",
    "header value": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "header name": b"HTTP/1.1 200 OK\r\nX",
    "chunk extension": HEAD + b"5;",
    "trailer": HEAD + chunk(event()) + b"0\r\nX-Long: ",
}


@pytest.mark.parametrize("head", FLOODS.values(), ids=FLOODS)
def test_headers_and_framing_without_end_are_given_up(lab: Lab, head: bytes) -> None:
    sent = [0]
    client = lab.client(lab.serve(flood(head, 2**16 * b"x", 100 * MB, sent)).url)
    failed(post(client), "stream_error", "not HTTP")
    assert sent[0] < 20 * MB  # most of it is in the sockets' buffers


def test_interim_answers_without_end_are_given_up(lab: Lab) -> None:
    sent = [0]
    piece = 1000 * b"HTTP/1.1 102 Processing\r\n\r\n"
    client = lab.client(lab.serve(flood(b"", piece, 100 * MB, sent)).url)
    failed(post(client), "stream_error", "not HTTP")


def test_a_long_answer_of_tiny_chunks_is_no_flood(lab: Lab) -> None:
    """Framing counts from one piece of the body to the next, not over the whole answer."""
    body = b"".join(events(2000))
    answer = HEAD + b"".join(chunk(body[index : index + 1]) for index in range(len(body))) + END
    assert len(answer) > 2 * 2**18
    result = post(lab.client(lab.answer(answer).url), asked=2000)
    assert (result.outcome, result.output_tokens) == ("ok", 2000)


def test_output_without_end_is_a_stream_error_and_the_connection_is_closed(lab: Lab) -> None:
    before = descriptors()
    sent = [0]
    server = lab.serve(flood(HEAD, chunk(100 * event()), 100 * MB, sent))
    result = post(lab.client(server.url), asked=10)
    failed(result, "stream_error", "tokens came where 10 were asked for")
    assert len(result.chunk_times_s) < 10_000
    assert sent[0] < 20 * MB
    assert settled(lambda: descriptors() == before + 1)


GARBAGE = {
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
    "TLS alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "binary": bytes(range(256)),
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "a bad status": b"HTTP/1.1 xyz\r\n\r\n",
    "a bad header": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "a bad chunk": HEAD + chunk(event()) + b"this is no size\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_stream_error_and_harms_no_other_stream(lab: Lab, answer: bytes) -> None:
    """The other stream is open at the time; a hub callback that fails would end it too."""

    def slow(peer: Peer) -> None:
        peer.request()
        for piece in (HEAD, *map(chunk, events()), END):
            peer.send(piece)
            gevent.sleep(0.02)

    other = gevent.spawn(post, lab.client(lab.serve(slow).url))
    gevent.sleep(0.01)
    bad = lab.serve(lambda peer: peer.request() and (peer.send(answer), peer.gone()))
    result = post(lab.client(bad.url, progress_s=2))
    failed(result, "stream_error", "not HTTP")
    assert result.e2e_s < 1
    assert other.get().outcome == "ok"


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("garbage", [b"what else", whole(), b"HTTP/1.1 2"])
def test_garbage_after_a_whole_answer_costs_the_connection_and_not_the_answer(
    lab: Lab, garbage: bytes, at_once: bool
) -> None:
    def handle(peer: Peer) -> None:
        while peer.request() is not None:
            if at_once:
                peer.send(whole() + garbage)
            else:
                peer.send(whole())
                gevent.sleep(0.01)
                peer.send(garbage)

    server = lab.serve(handle)
    client = lab.client(server.url)
    for _ in range(2):
        result = post(client)
        assert (result.outcome, result.output_tokens, result.reused) == ("ok", 3, False)
        gevent.sleep(0.03)


# large requests


def test_a_large_body_goes_whole_to_a_server_that_reads_slowly(lab: Lab) -> None:
    got = []

    def handle(peer: Peer) -> None:
        request = peer.head()
        assert request is not None
        while len(peer._read) < int(request.headers["content-length"]):
            peer._read += peer.sock.recv(2**18)
            gevent.sleep(0.005)
        got.append(peer._read)
        peer.send(whole())

    body = bytes(range(256)) * (5 * MB // 256)
    assert post(lab.client(lab.serve(handle).url), body).outcome == "ok"
    assert got == [body]


def test_others_are_read_while_a_large_body_is_sent(lab: Lab) -> None:
    stuck = gevent.spawn(post, lab.client(lab.serve(lambda peer: gevent.sleep(10)).url), bytes(20 * MB))
    gevent.sleep(0.01)
    assert post(lab.client(lab.answer(whole()).url)).outcome == "ok"
    assert not stuck.ready()
    stuck.kill()
    assert stuck.value.outcome == "cancelled"


@pytest.mark.parametrize("then", [lambda peer: None, lambda peer: gevent.sleep(5)], ids=["closes", "stays"])
def test_a_server_may_answer_before_it_has_read_the_whole_body(lab: Lab, then: Callable[[Peer], object]) -> None:
    """Too large, it says, and reads no more: the answer counts, and the connection is not used again."""
    answer = sized("413 Too Large", b'{"error":"too large"}')
    server = lab.serve(lambda peer: peer.head() and (peer.send(answer), then(peer)))
    client = lab.client(server.url, progress_s=3)
    for _ in range(2):
        result = post(client, bytes(20 * MB))
        failed(result, "http_error", "HTTP 413: too large")
        assert result.reused is False
        assert result.e2e_s < 1.5


def test_the_deadlines_hold_while_the_request_is_sent(lab: Lab) -> None:
    server = lab.serve(lambda peer: gevent.sleep(10))
    result = post(lab.client(server.url, progress_s=5, request_s=0.3), bytes(20 * MB))
    failed(result, "timeout", "no end of the answer within 0.3 s")
    assert result.e2e_s < 1.5
    result = post(lab.client(server.url, progress_s=0.3), bytes(20 * MB))
    failed(result, "timeout", "0.3 s")
    assert result.e2e_s < 1.5


def test_a_server_that_resets_while_the_request_is_sent_is_a_stream_error(lab: Lab) -> None:
    server = lab.serve(lambda peer: peer.head() and peer.reset())
    result = post(lab.client(server.url), bytes(20 * MB))
    assert (result.outcome, result.retried) == ("stream_error", False)


# headers


@pytest.mark.parametrize(
    "header",
    [{"X-A": "1\r\nX-Evil: 1"}, {"X-A\r\nX-Evil": "1"}, {"X-A": "\n"}, {"X-A": "\x00"}, {"X-A": "…"}],
)
def test_a_header_that_would_be_more_than_one_is_refused(lab: Lab, header: dict[str, str]) -> None:
    """On the client and on the request; the text does not repeat the value, which may be a key."""
    server = lab.answer(whole())
    with pytest.raises(InputError, match=r"holds characters that no header can hold") as refused:
        lab.client(server.url, headers=header)
    assert "Evil: 1" not in str(refused.value)
    with pytest.raises(InputError, match=r"holds characters that no header can hold"):
        lab.client(server.url).post(PATH, b"{}", AnswerReader(1), header)
    assert server.connections == 0


def test_headers_may_hold_latin_1(lab: Lab) -> None:
    server = lab.answer(whole())
    post(lab.client(server.url, headers={"X-Name": "Zoë"}))
    assert server.requests[0].headers["x-name"] == "Zoë"


# the end of a run


@pytest.mark.parametrize("handle", [silence, stall])
def test_a_killed_request_is_cancelled_and_its_connection_closed(lab: Lab, handle: Callable[[Peer], object]) -> None:
    ended = []
    server = lab.serve(lambda peer: (handle(peer), ended.append(1)))
    before = descriptors()
    request = gevent.spawn(post, lab.client(server.url))
    assert settled(lambda: descriptors() == before + 2)
    gevent.sleep(0.03)
    request.kill()
    result = request.value
    failed(result, "cancelled", "stopped before the answer had ended")
    assert len(result.chunk_times_s) == (2 if handle is stall else 0)
    assert settled(lambda: ended == [1])
    assert descriptors() == before


def test_a_request_killed_after_its_client_and_reactor_were_closed_is_cancelled_all_the_same(lab: Lab) -> None:
    before = descriptors()
    reactor = Reactor(time.perf_counter)
    client = Client(Target(lab.serve(stall).url), reactor, Deadlines())
    request = gevent.spawn(post, client)
    gevent.sleep(0.05)
    client.close()
    reactor.close()
    request.kill()
    assert request.value.outcome == "cancelled"
    assert settled(lambda: descriptors() == before + 1)


def test_a_killed_request_leaves_the_others_alone(lab: Lab) -> None:
    go = gevent.event.Event()
    server = lab.serve(lambda peer: peer.request() and (peer.send(HEAD), go.wait(), peer.send(whole()[len(HEAD) :])))
    client = lab.client(server.url)
    requests = [gevent.spawn(post, client) for _ in range(10)]
    assert settled(lambda: server.connections == 10)
    gevent.sleep(0.02)
    gevent.killall(requests[::2])
    go.set()
    gevent.joinall(requests)
    assert [request.value.outcome for request in requests] == ["cancelled", "ok"] * 5


# times


def test_tokens_are_stamped_when_they_come(lab: Lab) -> None:
    """The server's truth is the time just before each write; both share one clock here."""
    written_s: list[float] = []

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        for data in events(5):
            gevent.sleep(0.03)
            written_s.append(time.perf_counter())
            peer.send(chunk(data))
        written_s.append(time.perf_counter())
        peer.send(END)

    result = post(lab.client(lab.serve(handle).url), asked=5)
    errors_s = [read_s - sent_s for read_s, sent_s in zip(result.chunk_times_s, written_s[:5], strict=True)]
    assert min(errors_s) > -1e-4
    assert max(errors_s) < SCHEDULING_S
    assert result.first_token_s == result.chunk_times_s[0]
    assert result.last_token_s == result.chunk_times_s[-1]
    assert 0 <= result.end_s - written_s[-1] < SCHEDULING_S


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what a TCP socket receives")
def test_a_client_that_is_busy_elsewhere_does_not_add_to_the_servers_latency(lab: Lab) -> None:
    written_s: list[float] = []

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        for data in events(3):
            gevent.sleep(0.05)
            written_s.append(time.perf_counter())
            peer.send(chunk(data))
            _block(0.15)  # nobody reads in that time
        peer.send(END)

    client = lab.client(lab.serve(handle).url)
    gevent.sleep(0.05)  # the kernel begins to stamp
    result = post(client, asked=3)
    errors_s = [came_s - sent_s for came_s, sent_s in zip(result.chunk_times_s, written_s[:3], strict=True)]
    assert min(errors_s) > -1e-4
    assert max(errors_s) < SCHEDULING_S


def test_the_end_is_the_time_of_the_last_read_however_late_the_greenlet_wakes(lab: Lab) -> None:
    class Busy(AnswerReader):
        """Keeps the hub busy between the last read and the greenlet's turn."""

        __slots__ = ()

        def feed(self, data: bytes, at_s: float) -> bool:
            get_hub().loop.run_callback(_block, 0.1)
            return super().feed(data, at_s)

    client = lab.client(lab.answer(sized("200 OK", b"".join(events()))).url)
    result = client.post(PATH, b"{}", Busy(3))
    assert result.outcome == "ok"
    assert time.perf_counter() - result.end_s > 0.09
    assert result.end_s == result.last_token_s


def test_sent_is_before_connecting(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow connection is part of the latency that a user sees."""
    server = lab.answer(whole())
    look_up = gevent.socket.getaddrinfo

    def slow(*args: object, **kwargs: object) -> object:
        gevent.sleep(0.1)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(gevent.socket, "getaddrinfo", slow)
    result = post(lab.client(f"http://localhost:{server.port}"))
    assert result.outcome == "ok"
    assert result.ttft_s is not None
    assert result.ttft_s > 0.09
