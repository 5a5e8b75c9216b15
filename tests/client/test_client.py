"""The client against servers that behave: an answer becomes a result, and connections serve more than one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest
from servers import (
    DONE,
    END,
    HEAD,
    PATH,
    UNFRAMED,
    Lab,
    Peer,
    chunk,
    descriptors,
    event,
    events,
    failed,
    post,
    settled,
    sized,
    whole,
)

from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.simulator.process import SimulatorProcess


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(ttft_ms=400, itl_ms=50, hostile_text=True) as simulator:
        yield simulator


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
