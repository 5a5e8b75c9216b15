"""The part in C by itself: what a lane takes, with which times, and what it leaves to Python."""

from __future__ import annotations

import errno
import math
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from gevent import monkey
from servers import END, chunk, tcp_pair

from fineserve_shapes.client.lanes import lane_type

pytestmark = pytest.mark.skipif(lane_type() is None, reason="the part in C is not built here")

BEFORE, AFTER = b'data: {"text":"', b'"}\n\n'


@contextmanager
def laid(left: int = 100) -> Iterator[tuple[Any, Any, socket.socket, socket.socket]]:
    """Lanes, a lane, and the two ends of its connection."""
    from fineserve_shapes.client._lanes import Lane, Lanes

    ours, theirs = tcp_pair()
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
    "a text with half of a surrogate pair": piece(b"\\ud800"),
    "a text with the other half": piece(b"\\udc00"),
    "a text with a half and a whole": piece(b"\\ud800\\u0041"),
    "a text with an escape by number that is none": piece(b"\\u12g4"),
    "a text with an escape by too short a number": piece(b"\\u12"),
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


@pytest.mark.parametrize(
    "text",
    [b" word", b"\xc3\xa9", b"\xff", b"\\n", b'\\"', b"\\\\", b"\\u00e9a", b"\\ud83d\\ude00", b"a" * 60_000, b"\x7f"],
)
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
