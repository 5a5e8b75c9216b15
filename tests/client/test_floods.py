"""Servers that send too much, or no HTTP: the answer is given up in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import gevent
import pytest
from servers import (
    END,
    HEAD,
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
    whole,
)

MB = 2**20


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
