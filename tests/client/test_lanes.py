"""Lanes are a short way to the same answer: with them and without them a connection says the same, at every step."""

from __future__ import annotations

import errno
import json
import math
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any

import gevent
import numpy as np
import pytest
from gevent import monkey
from gevent.event import Event
from gevent.hub import get_hub
from hypothesis import example, given, settings
from hypothesis import strategies as st
from servers import DONE, END, HEAD, chunk, event
from thorough import examples

from fineserve_shapes.client.connection import Connection, Deadlines, Pool
from fineserve_shapes.client.lanes import SWITCH, lane_type
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.transport import PlainTransport
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.timer import begins, has_begun

pytestmark = pytest.mark.skipif(lane_type() is None, reason="the part in C is not built here")

_Socket: type[socket.socket] = monkey.get_original("socket", "socket")
BEFORE, AFTER = b'data: {"text":"', b'"}\n\n'


# the part in C by itself


@contextmanager
def laid(left: int = 100) -> Iterator[tuple[Any, Any, socket.socket, socket.socket]]:
    """Lanes, a lane, and the two ends of its connection."""
    from fineserve_shapes.client._lanes import Lane, Lanes

    ours, theirs = pair()
    poll = monkey.get_original("select", "epoll")()
    try:
        poll.register(ours.fileno(), select.EPOLLIN)
        lanes = Lanes(poll.fileno(), 0.9, 1.1)
        now_s = time.perf_counter()
        lane = Lane(BEFORE, AFTER, left, now_s, now_s, now_s)
        lanes.lay(ours.fileno(), lane)
        yield lanes, lane, ours, theirs
    finally:
        poll.close()
        ours.close()
        theirs.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection; the first does not block."""
    with _Socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = _Socket()
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def piece(text: bytes) -> bytes:
    return chunk(BEFORE + text + AFTER)


PLAIN = piece(b" word")
OTHERS = {
    "no chunk of HTTP": BEFORE + b"word" + AFTER,
    "a chunk without its end": PLAIN[:-1],
    "a chunk and a half": PLAIN + PLAIN[:20],
    "a byte too many": PLAIN + b"x",
    "a size that is too small": b"1" + PLAIN[2:],
    "a size that is too large": b"2" + PLAIN[1:],
    "a size with an extension": PLAIN.replace(b"\r\n", b";a=b\r\n", 1),
    "a size of too many digits": b"0000000" + PLAIN,
    "no size": PLAIN[2:],
    "no digits but their meaning": b" " + PLAIN,
    "no text": piece(b""),
    "a text that ends before": piece(b'a","b":"c'),
    "a text with half an escape": piece(b"a\\"),
    "a text with an escape that is none": piece(b"a\\x"),
    "a text with an escape of a zero byte": piece(b"a\\\0"),
    "a text with an escape by number, which may be none": piece(b"\\ud800"),
    "a text with a control character": piece(b"a\tb"),
    "another beginning": chunk(BEFORE.replace(b"text", b"texx") + b"word" + AFTER),
    "another end": chunk(BEFORE + b"word" + AFTER.replace(b"}", b"]")),
    "beginning and end that overlap": chunk(BEFORE[:-1] + AFTER),
    "the last chunk": END,
    "a repeat and the last chunk": PLAIN + END,
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_what_is_no_repeat_comes_as_it_was_read(data: bytes):
    with laid() as (lanes, lane, ours, theirs):
        theirs.sendall(data)
        found, others = lanes.drain(10, math.inf)
        assert (found, lane.held) == (1, 0)
        assert [(fd, read) for fd, read, *_ in others] == [(ours.fileno(), data)]
        at_s, read_s, empty_s = others[0][2:]
        assert empty_s <= at_s <= read_s <= time.perf_counter() < at_s + 1
        theirs.sendall(PLAIN)
        assert lanes.drain(10, math.inf)[1][0][:2] == (ours.fileno(), PLAIN)
        assert lane.held == 0  # it must not overtake what Python has not come to yet


@pytest.mark.parametrize("text", [b" word", b"\xc3\xa9", b"\xff", b"\\n", b'\\"', b"\\\\", b"a" * 60_000, b"\x7f"])
def test_repeats_are_kept_with_their_times(text: bytes):
    with laid() as (lanes, lane, _, theirs):
        before_s = time.perf_counter()
        for number in range(3):
            theirs.sendall(piece(text))
            while not lanes.drain(10, math.inf)[0]:
                pass
            assert lane.held == number + 1
        times, body_bytes = lane.take()
        times_s = np.frombuffer(times)
        assert body_bytes == 3 * len(BEFORE + text + AFTER)
        assert len(times_s) == 3
        assert before_s <= times_s[0] <= times_s[1] <= times_s[2] == lane.token_s <= lane.drained_s
        assert (lane.held, lane.take()) == (0, (b"", 0))
        assert len(np.frombuffer(lanes.take_delays())) == 3
        assert lanes.take_unsure() == b""


def test_repeats_that_come_together_have_one_time_and_are_told_to_be_unsure():
    with laid() as (lanes, lane, _, theirs):
        lanes.emptied_s = time.perf_counter() - 5.0
        theirs.sendall(3 * PLAIN.replace(b"1b", b"001B"))
        assert lanes.drain(10, math.inf) == (1, [])
        times_s = np.frombuffer(lane.take()[0])
        assert len(times_s) == 3
        assert len(set(times_s)) == 1
        unsure_s = np.frombuffer(lanes.take_unsure())
        assert len(unsure_s) == 1
        assert unsure_s[0] < 1.0  # the lane itself is younger than that


def test_the_gap_that_is_followed_is_that_of_tokens():
    with laid() as (lanes, lane, _, theirs):
        lanes.gap_s = 1.0
        theirs.sendall(PLAIN)
        lanes.drain(10, math.inf)
        assert lanes.gap_s == pytest.approx(0.9)
        lanes.gap_s = 0.0
        before_s = lane.token_s
        theirs.sendall(2 * PLAIN)
        lanes.drain(10, math.inf)
        assert lanes.gap_s == pytest.approx((lane.token_s - before_s) / 2)


def test_a_lane_takes_no_more_than_it_may():
    with laid(left=2) as (lanes, lane, ours, theirs):
        theirs.sendall(PLAIN)
        assert lanes.drain(10, math.inf) == (1, [])
        theirs.sendall(2 * PLAIN)
        assert lanes.drain(10, math.inf)[1][0][:2] == (ours.fileno(), 2 * PLAIN)
        assert lane.held == 1


def test_ends_and_errors_come_too():
    with laid() as (lanes, _, ours, theirs):
        theirs.close()
        assert lanes.drain(10, math.inf)[1][0][:2] == (ours.fileno(), b"")
    with laid() as (lanes, _, ours, theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        assert lanes.drain(10, math.inf)[1][0][:2] == (ours.fileno(), errno.ECONNRESET)


def test_a_lane_that_is_lifted_reads_no_more():
    with laid() as (lanes, lane, ours, theirs):
        theirs.sendall(PLAIN)
        lanes.lift(ours.fileno())
        assert lanes.drain(10, math.inf) == (1, [(ours.fileno(), None, 0, 0, 0)])
        lanes.lift(ours.fileno())  # twice is no error
        lanes.lift(10**6)
        assert (lane.held, ours.recv(100)) == (0, PLAIN)


# a reactor with lanes


def knows_nothing() -> Any:
    """A lane that reads, and leaves all to Python."""
    from fineserve_shapes.client._lanes import Lane

    return Lane(b"", b"", 0, 0.0, 0.0, 0.0)


@contextmanager
def laid_in_a_reactor(count: int) -> Iterator[tuple[Reactor, Any, list[tuple[socket.socket, socket.socket]]]]:
    """A reactor whose alarm does not ring, a lane that knows nothing on each of so many connections, and their ends.

    What lanes read is put down in `reactor.served`: the number of the connection, and what was read. That takes the third
    part of what is served even if something is due, by the reactor's clock, which goes on with nothing else."""
    served: list[tuple[Any, ...]] = []
    began_s = time.perf_counter()
    reactor: Any = Reactor(lambda: began_s + 0.00011 * len(served))
    reactor.served = served
    pairs = [pair() for _ in range(count)]
    try:
        for number, (ours, _) in enumerate(pairs):

            def on_read(*read: object, number: int = number, ours: socket.socket = ours) -> None:
                reactor.served.append((number, *read))
                reactor.lay(ours.fileno(), knows_nothing())

            reactor.add(ours.fileno(), lambda: None, on_read)
            reactor.lay(ours.fileno(), knows_nothing(), knows=False)
        yield reactor, reactor.served, pairs
    finally:
        reactor.close()
        for sock in (sock for ends in pairs for sock in ends):
            sock.close()


@pytest.fixture
def due() -> Iterator[None]:
    """Something is due, and has not begun."""
    begins("a request")
    yield
    has_begun("a request")


def test_what_is_due_goes_first_once_and_then_all_is_read_and_a_little_served(due: None):
    """What was read has its times, however long it waits then, and what came behind it is served with it."""
    with laid_in_a_reactor(12) as (reactor, served, pairs):
        for _, theirs in pairs:
            theirs.sendall(b"first")
        assert reactor._drain()
        assert served == []
        assert reactor._drain()
        assert len(served) == 3
        read_s = time.perf_counter()
        for _, theirs in pairs:
            theirs.sendall(b"second")
        time.sleep(0.02)
        has_begun("a request")
        for _ in range(3):
            reactor._drain()
        order = [(number, data) for number, data, *_ in served]
        assert len(order) == 24
        assert [number for number, data in order if data == b"first"] == list(range(12))
        assert all(order.index((number, b"second")) == order.index((number, b"first")) + 1 for number in range(3, 12))
        assert all(at_s <= came_s <= read_s for _, data, at_s, came_s, _ in served if data == b"first")


def test_what_was_read_is_handed_over_at_once_where_that_is_asked_and_dropped_with_its_descriptor(due: None):
    with laid_in_a_reactor(7) as (reactor, served, pairs):
        for _, theirs in pairs:
            theirs.sendall(b"first")
        reactor._drain()
        reactor._drain()
        assert [number for number, *_ in served] == [0, 1, 2]
        reactor.serve(pairs[5][0].fileno())
        reactor.serve(pairs[5][0].fileno())  # twice is no error
        reactor.remove(pairs[6][0].fileno())
        has_begun("a request")
        assert not reactor._drain()
        assert [number for number, *_ in served] == [0, 1, 2, 5, 3, 4]


def test_what_was_found_unread_is_left_to_a_lane_that_is_laid_meanwhile(due: None):
    with laid_in_a_reactor(6) as (reactor, served, pairs):
        for number, (ours, theirs) in enumerate(pairs):
            reactor.remove(ours.fileno())
            reactor.add(ours.fileno(), partial(served.append, (number, "unread")), lambda *_: served.append(("read",)))
            theirs.sendall(b"first")
        reactor._drain()
        reactor._drain()
        assert served == [(0, "unread"), (1, "unread"), (2, "unread")]
        reactor.lay(pairs[5][0].fileno(), knows_nothing())
        has_begun("a request")
        reactor._drain()
        assert (4, "unread") in served
        assert (5, "unread") not in served


def test_answers_that_never_repeat_leave_a_share_to_what_has_ended(due: None):
    called: list[int] = []
    with laid_in_a_reactor(12) as (reactor, served, pairs):
        for _, theirs in pairs:
            theirs.sendall(b"first")
        for _ in range(3):
            reactor.call_later(lambda: called.append(len(served)))
        for _ in range(12):
            reactor._drain()
        assert called == [3, 6, 9]


def test_answers_that_begin_are_served_first_then_the_rest_and_what_ended_even_if_the_reactor_closes():
    called: list[str] = []
    with laid_in_a_reactor(2) as (reactor, served, pairs):
        pairs[0][1].sendall(b"first")
        assert not reactor._drain()
        pairs[0][1].sendall(b"later")
        reactor._drain()
        assert [data for _, data, *_ in served] == [b"first", b"later"]
        reactor.call_later(lambda: called.append(f"after {len(served)}"))
        pairs[0][1].sendall(b"last")
        pairs[1][1].sendall(b"first")
        reactor._drain()
        assert [(number, data) for number, data, *_ in served[2:]] == [(1, b"first"), (0, b"last")]
        assert called == ["after 3"]
        reactor.call_later(lambda: called.append("at the end"))
    gevent.sleep(0)
    assert called == ["after 3", "at the end"]


# a connection with it and without


@contextmanager
def exchange(
    asked: int | None, request: bytes = b"POST", deadlines: Deadlines | None = None
) -> Iterator[tuple[Connection, AnswerReader, Reactor, Callable[[bytes], None], Any]]:
    """A request that has been sent, its reader, what reads, what sends a piece of the answer, and who waits for its end."""
    reactor = Reactor(time.perf_counter)
    ours, theirs = pair()
    connection = Connection(PlainTransport(ours), reactor, deadlines or Deadlines(), Pool())
    reader = AnswerReader(asked)
    waiting = gevent.spawn(connection.exchange, request, reader, time.perf_counter())
    gevent.sleep(0)

    def send(data: bytes) -> None:
        theirs.sendall(data)
        while select_readable(ours) and reactor._readers:
            drain(reactor)
            if connection._waiter is None:
                break

    try:
        yield connection, reader, reactor, send, waiting
    finally:
        waiting.kill()
        connection.close()
        reactor.close()
        theirs.close()


def drain(reactor: Reactor) -> None:
    """In the hub, where alone a greenlet can be woken."""
    done = Event()
    get_hub().loop.run_callback(lambda: (reactor._drain(), done.set()))
    done.wait()


def select_readable(sock: socket.socket) -> bool:
    return sock.fileno() >= 0 and bool(monkey.get_original("select", "select")([sock], [], [], 0)[0])


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
        drain(reactor)
        if waiting.ready():
            end = waiting.value
        else:
            waiting.kill()
            end = "killed"
        assert reader.ahead is None
        return reader.finish(0.0, connection.ended_s, whole=end == "done"), shown, end


def assert_same(pieces: list[bytes], asked: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = [answer(pieces, asked)]
        patch.setenv(SWITCH, "1")
        found.append(answer(pieces, asked))
    (one, shown, end), (other, shown_without, end_without) = found
    assert (shown, end) == (shown_without, end_without)
    for field in fields(Result):
        if not field.name.endswith("_s"):
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    times_s = one.chunk_times_s
    assert len(times_s) == len(other.chunk_times_s)
    assert (np.diff(times_s) >= 0).all()


texts = st.one_of(
    st.sampled_from([" word", "é", "\u2028", '"', "\\", "\n", "", "a" * 300, '","finish_reason":"stop","x":"']),
    st.text(max_size=5),
)


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """The chunks of an answer: mostly events of one form, with others between them."""
    found = []
    ascii_only = draw(st.booleans())
    for text in draw(st.lists(texts, min_size=1, max_size=12)):
        said = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        kind = draw(st.integers(0, 25))
        if kind == 0:
            found.append(b": a comment\n\n")
        elif kind == 1:
            found.append(event(said) + event(said))
        elif kind == 2:
            found.append(event(said).replace(b"null", b'"length"'))
        elif kind == 3:
            found.append(event(said).replace(b"}]", b'}],"usage":{"completion_tokens":3}'))
        elif kind == 4:
            found.append(b'data: {"error":{"message":"no"}}\n\n')
        elif kind == 5:
            found.append(event(said)[:-1])
        elif kind == 6:
            found.append(b"\n")
        else:
            found.append(event(said))
    return [*found, draw(st.sampled_from([event(finish="length"), DONE, event(finish="length") + DONE]))]


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
    with exchange(200, bytes(20 * 2**20), deadlines) as (connection, reader, _, send, waiting):
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
