"""Lanes are a short way to the same answer: with them and without them a connection says the same, at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from piecedanswers import assert_same_but_for_times, bodies, drain, select_readable, what_came
from servers import DONE, END, HEAD, chunk, event, tcp_pair
from thorough import examples

from fineserve_shapes.client.connection import Connection, Deadlines, Pool
from fineserve_shapes.client.lanes import SWITCH, lane_type
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.transport import PlainTransport
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result

pytestmark = pytest.mark.skipif(lane_type() is None, reason="the part in C is not built here")


@contextmanager
def exchange(
    asked: int | None, request: bytes = b"POST", deadlines: Deadlines | None = None
) -> Iterator[tuple[Connection, AnswerReader, Reactor, Callable[[bytes], None], Any]]:
    """A request that has been sent, its reader, what reads, what sends a piece of the answer, and who waits for its end."""
    reactor = Reactor(time.perf_counter)
    ours, theirs = tcp_pair()
    connection = Connection(PlainTransport(ours), reactor, deadlines or Deadlines(), Pool())
    reader = AnswerReader(asked)
    waiting = gevent.spawn(connection.exchange, request, reader, time.perf_counter())
    gevent.sleep(0)

    def send(data: bytes) -> None:
        theirs.sendall(data)
        wait_s = 1.0  # on a busy machine it may take its time to come
        while reactor._readers and select_readable(ours, wait_s):
            drain(reactor)
            if connection._waiter is None:
                break
            wait_s = 0.0

    try:
        yield connection, reader, reactor, send, waiting
    finally:
        waiting.kill()
        connection.close()
        reactor.close()
        theirs.close()


def answer(pieces: list[bytes], asked: int | None) -> tuple[Result, list[tuple[Any, ...]], str]:
    """What comes of an answer in these pieces: the result, what the reader showed meanwhile, and how it ended."""
    shown = []
    with exchange(asked) as (connection, reader, reactor, send, waiting):
        for data in pieces:
            send(data)
            shown.append(
                (reader.tokens, reader.first_token_s is None, reader.done, reader.complete, reader.input_tokens)
            )
            if connection._waiter is None:
                break
        result, end = what_came(connection, reader, reactor, waiting)
        return result, shown, end


def assert_same(pieces: list[bytes], asked: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = [answer(pieces, asked)]
        patch.setenv(SWITCH, "1")
        found.append(answer(pieces, asked))
    (one, shown, end), (other, shown_without, end_without) = found
    assert (shown, end) == (shown_without, end_without)
    assert_same_but_for_times(one, other)


@settings(max_examples=examples(400), deadline=None)
@given(
    bodies(),
    st.lists(st.integers(0, 3000), max_size=6),
    st.sampled_from(["by chunk", "in twos", "cut"]),
    st.sampled_from([None, 1, 8]),
    st.sampled_from(["chunked", "with an extension", "until its end"]),
)
@example([event(), event(), event(), event(finish="length"), DONE], [], "by chunk", 4, "chunked")
@example([event(), event(), event(), event(finish="length"), DONE], [], "in twos", 4, "chunked")
def test_an_answer_is_the_same_with_lanes_and_without(
    body: list[bytes], cuts: list[int], way: str, asked: int | None, framing: str
):
    head, tail = HEAD, [END]
    if framing == "until its end":
        head, tail = HEAD.replace(b"Transfer-Encoding: chunked\r\n", b""), []
        chunks = body
    else:
        chunks = [chunk(part) for part in body]
        if framing == "with an extension":
            chunks = [part.replace(b"\r\n", b";a=b\r\n", 1) for part in chunks]
    parts = [head, *chunks, *tail]
    if way == "in twos":
        parts = [b"".join(parts[at : at + 2]) for at in range(0, len(parts), 2)]
    elif way == "cut":
        data = b"".join(parts)
        places = sorted(min(at, len(data)) for at in cuts)
        parts = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert_same([part for part in parts if part], asked)


def test_a_whole_answer_is_done_and_one_that_is_cut_short_is_as_it_was_read():
    pieces = [HEAD, chunk(event()), chunk(event()), chunk(event(finish="length") + DONE)]
    result, _, end = answer([*pieces, END], 3)
    assert (end, result.outcome, result.output_tokens) == ("done", "ok", 3)
    with exchange(9) as (_, reader, reactor, send, waiting):
        for data in pieces[:3]:
            send(data)
        reactor._keep(next(iter(reactor._laid)), (chunk(event(" last")), *(3 * [time.perf_counter()])))
        waiting.kill()
        assert reader.tokens == 3


@pytest.mark.parametrize("more", [event() + event(), event("\\u00e9")], ids=["two in one chunk", "an escape by number"])
def test_an_answer_without_end_is_given_up(more: bytes):
    """After as many tokens as without a lane, also where only some of them take it."""
    assert_same([HEAD, *[chunk(event())] * 1100], 4)
    assert_same([HEAD, *[chunk(event()), chunk(more)] * 700], 4)


def test_what_python_reads_in_between_is_known_to_the_lane():
    with exchange(200) as (connection, reader, reactor, send, _):
        send(HEAD + chunk(event()))
        send(chunk(event()))
        gevent.sleep(0.05)
        send(chunk(event() + event()))
        reactor._lanes.gap_s = 0.0
        before_s = connection._token_s
        assert before_s is not None
        send(chunk(event()))
        assert reader.tokens == 5
        connection._catch_up()
        assert connection._token_s is not None
        assert reactor._lanes.gap_s == pytest.approx(connection._token_s - before_s)


@pytest.mark.parametrize("end", ["killed", "not sent in time"])
def test_an_answer_that_ends_while_its_request_is_sent_has_what_the_lane_held(end: str):
    deadlines = Deadlines(progress_s=0.2) if end == "not sent in time" else Deadlines()
    with exchange(200, bytes(20 * 2**20), deadlines) as (connection, reader, reactor, send, waiting):
        reactor._sweeper.kill()  # on a busy machine it might find first that as long has passed since the last token
        send(HEAD + chunk(event()))
        for _ in range(9):
            send(chunk(event()))
        assert connection._sender is not None  # it still is
        if end == "killed":
            waiting.kill()
        else:
            waiting.join(5)
            assert waiting.value == "the request could not be sent within 0.2 s"
        assert (reader.ahead, reader.tokens) == (None, 10)


def test_nearly_all_of_a_stream_takes_the_lane():
    """Else all of this would be for nothing."""
    with exchange(200) as (_, reader, reactor, send, _):
        send(HEAD)
        send(chunk(event()))
        for _ in range(150):
            send(chunk(event()))
        assert reader.ahead is not None
        assert (reader.ahead.held, reader.tokens) == (150, 151)
        taken = reactor.reads.take()
        assert (taken.delay.count, taken.first_unsure.count, taken.shared_unsure.count) == (151, 1, 0)


def test_an_answer_that_is_cut_short_has_what_the_lane_held():
    with exchange(200) as (_, reader, _, send, waiting):
        send(HEAD + chunk(event()))
        for _ in range(9):
            send(chunk(event()))
        waiting.kill()
        result = reader.finish(0.0, time.perf_counter(), whole=False)
        assert (result.output_tokens, len(result.chunk_times_s)) == (10, 10)
