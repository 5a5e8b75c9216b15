"""An answer whose pieces stay unread for a while says the same in the end as one of which each is read at once."""

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
from fineserve_shapes.client.lanes import lane_type
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.transport import PlainTransport
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result

pytestmark = pytest.mark.skipif(lane_type() is None, reason="the part in C is not built here")

BEFORE, AFTER = b'data: {"text":"', b'"}\n\n'
PIECE = chunk(BEFORE + b" word" + AFTER)
UNREAD_S = 0.06  # and what stays unread for as long is read


@contextmanager
def among_others(
    asked: int | None, close_s: float
) -> Iterator[tuple[Any, AnswerReader, Any, Callable[[bytes], None], Any]]:
    """A request that has been sent: its connection, its reader, what reads, what sends a piece of the answer between pieces
    of two other streams, and who waits for its end."""
    from fineserve_shapes.client._lanes import Lane

    reactor: Any = Reactor(time.perf_counter)
    reactor._lanes.close_s = close_s
    reactor.leisurely = True
    reactor._is_early = lambda _: False  # which is another matter
    pairs = [tcp_pair() for _ in range(3)]
    (before, to_before), (ours, theirs), (behind, to_behind) = pairs
    pool = Pool()
    pool.acknowledgements.harmless = True
    connection: Any = Connection(PlainTransport(ours), reactor, Deadlines(), pool)
    reader = AnswerReader(asked)
    for other in (before, behind):
        PlainTransport(other)
        reactor.add(other.fileno(), lambda: None, lambda *_: None)
        now_s = time.perf_counter()
        reactor.lay(other.fileno(), Lane(BEFORE, AFTER, 10**6, now_s, now_s, now_s))
    waiting = gevent.spawn(connection.exchange, b"POST", reader, time.perf_counter())
    gevent.sleep(0)
    drain(reactor)

    def send(data: bytes) -> None:
        for receiver, sender, sent in ((before, to_before, PIECE), (ours, theirs, data), (behind, to_behind, PIECE)):
            sender.sendall(sent)
            if receiver.fileno() in reactor._readers:
                select_readable(receiver, 1.0)
        drain(reactor)

    try:
        yield connection, reader, reactor, send, waiting
    finally:
        waiting.kill()
        connection.close()
        reactor.close()
        for sock in (before, behind, theirs, to_before, to_behind):
            sock.close()


def answer(pieces: list[bytes], asked: int | None, close_s: float) -> tuple[Result, str, int]:
    """What comes of an answer in these pieces, how it ended, and how many were unread when the next was sent."""
    unread = 0
    with among_others(asked, close_s) as (connection, reader, reactor, send, waiting):
        for data in pieces:
            send(data)
            if connection._waiter is None:
                break
            unread += connection._lane is not None and connection._lane.unread > 0
        if connection._lane is not None and connection._lane.unread:
            time.sleep(UNREAD_S)
        return *what_came(connection, reader, reactor, waiting), unread


def assert_same(pieces: list[bytes], asked: int | None) -> int:
    """Whether some stay unread or none does; how many did."""
    one, end, unread = answer(pieces, asked, 10.0)
    other, end_of_other, none = answer(pieces, asked, 0.0)
    assert (end, none) == (end_of_other, 0)
    assert_same_but_for_times(one, other)
    return unread


def test_most_of_a_plain_answer_stays_unread_for_a_while():
    pieces = [HEAD + chunk(event()), *[chunk(event())] * 18, chunk(event(finish="length") + DONE), END]
    assert assert_same(pieces, 20) >= 5
    assert assert_same(pieces, None) >= 5


@settings(max_examples=examples(60), deadline=None)
@given(bodies(), st.sampled_from([None, 1, 8]), st.booleans())
@example([event(), event(), event(), event(), event(finish="length"), DONE], None, True)
def test_an_answer_is_the_same_if_pieces_stay_unread(body: list[bytes], asked: int | None, with_end: bool):
    parts = [HEAD, *map(chunk, body), END]
    if with_end:
        parts[-2:] = [b"".join(parts[-2:])]
    assert_same(parts, asked)


def test_an_answer_that_is_cut_short_has_what_was_unread():
    with among_others(None, 10.0) as (connection, reader, _, send, waiting):
        send(HEAD + chunk(event()))
        for _ in range(3):
            send(chunk(event()))
        assert connection._lane.unread > 0
        assert reader.tokens < 4
        waiting.kill()
        result = reader.finish(0.0, time.perf_counter(), whole=False)
        assert (result.output_tokens, len(result.chunk_times_s)) == (4, 4)


def test_an_end_that_was_expected_is_not_waited_for():
    """The last token of as many as were asked for is read at once, and what follows it."""
    pieces = [HEAD + chunk(event()), *[chunk(event())] * 4, chunk(event(finish="length") + DONE) + END]
    with among_others(6, 10.0) as (_, _, _, send, waiting):
        for data in pieces:
            assert not waiting.ready()
            send(data)
        assert waiting.ready()
        assert waiting.value == "done"


def test_nothing_stays_unread_where_the_server_may_wait_for_word():
    with among_others(None, 10.0) as (connection, reader, _, send, _):
        connection._pool.acknowledgements.harmless = False
        send(HEAD + chunk(event()))
        for number in range(9):
            send(chunk(event()))
            assert (connection._lane.unread, reader.tokens) == (0, number + 2)


def test_a_first_token_that_can_begin_a_trial_does_not_wait():
    """Of late acknowledgements: it has to be told of soon after it came."""
    with among_others(None, 10.0) as (connection, _, reactor, send, _):
        del reactor._is_early
        connection._pool.acknowledgements.harmless = False
        reactor._hurried.add(connection._transport.fileno())
        send(HEAD + chunk(event()))
        assert connection._pool.acknowledgements._trial is not None
        assert not reactor._hurried
