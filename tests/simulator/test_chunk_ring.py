"""The part in C is a short way to the same writes: a ring in C and one in Python do the same, at every step."""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recordedanswer import nonblocking_pair
from thorough import examples

from fineserve_shapes.simulator.ring import SWITCH, PlainChunkRing, PlainSeat, open_ring

pytestmark = pytest.mark.skipif(isinstance(open_ring(1.0)[0], PlainChunkRing), reason="the part in C is not built here")

INTERVAL_S = 0.01
LARGE = 300_000
"""Bytes of a chunk that no socket here takes whole."""

Step = tuple[Any, ...]


class Driven:
    """A ring and its streams, each with a connection whose other end is read when a step says so."""

    def __init__(self, opened: tuple[Any, Any]) -> None:
        self._ring, self._new_seat = opened
        self._seats: list[Any] = []
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._said: list[object] = []
        self._takes = True  # whether a connection that could not take a chunk is written to again
        self.times_s: list[list[float]] = []
        self.now_s = 100.0

    def do(self, step: Step) -> object:
        """Do a step; all that can be seen of it."""
        kind, *with_what = step
        self._said = []
        getattr(self, kind)(*with_what)
        return self._said, self._ring.next_s(), [len(times_s) for times_s in self.times_s]

    def board(self, chunks: Sequence[bytes], first: int, count: int, after_s: float, connected: bool) -> None:
        ours, theirs = nonblocking_pair()
        fd = ours.fileno() if connected else -1
        seat = self._new_seat(fd, tuple(chunks), first % len(chunks), count)
        self._pairs.append((ours, theirs))
        self._seats.append(seat)
        self.times_s.append([])
        self._ring.board(seat, self.now_s + after_s)

    def wait(self, for_s: float) -> None:
        self.now_s += for_s
        before_s = time.perf_counter()
        while (seat := self._ring.write(self.now_s, self._rest)) is not None:
            self._said.append(("the end of", self._seats.index(seat)))
        after_s = time.perf_counter()
        for seat, times_s in zip(self._seats, self.times_s, strict=True):
            written_s = np.frombuffer(seat.take()).tolist()
            assert written_s == sorted(written_s)
            assert all(before_s <= at_s <= after_s for at_s in written_s)
            times_s += written_s

    def leave(self, number: int) -> None:
        if self._seats:
            try:
                self._ring.leave(self._seats[number % len(self._seats)])
            except ValueError:
                self._said.append("it has no seat here")

    def read(self, number: int) -> None:
        if self._pairs:
            with contextlib.suppress(OSError):
                while data := self._pairs[number % len(self._pairs)][1].recv(1 << 20):
                    self._said.append(data)

    def hang_up(self, number: int) -> None:
        if self._pairs:
            self._pairs[number % len(self._pairs)][1].close()

    def take_no_more(self, takes: bool) -> None:
        self._takes = takes

    def close(self) -> None:
        for pair in self._pairs:
            for sock in pair:
                sock.close()

    def _rest(self, seat: Any, left: bytes) -> int:
        number = self._seats.index(seat)
        self._said.append((number, left))
        return self._pairs[number][0].fileno() if self._takes else -1


chunks = st.lists(st.sampled_from([b"a", b"bc" * 100, b"d" * LARGE]), min_size=1, max_size=4)
steps = st.one_of(
    st.tuples(
        st.just("board"),
        chunks,
        st.integers(0, 3),
        st.integers(0, 6),
        st.floats(0.0, INTERVAL_S),
        st.sampled_from([True, True, True, False]),
    ),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 1e-4, 0.003, 0.01, 0.045])),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.003])),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("read"), st.integers(0, 9)),
    st.tuples(st.just("hang_up"), st.integers(0, 9)),
    st.tuples(st.just("take_no_more"), st.booleans()),
)
RIDE: list[Step] = [("board", [b"a", b"b"], 1, 2, 0.001 * number, True) for number in range(5)]


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(steps, max_size=40))
@example([*RIDE, ("wait", 0.0025), ("board", [b"c"], 0, 3, 0.009, True), *[("wait", 0.003)] * 20])
@example([("board", [b"d" * LARGE, b"a"], 0, 9, 0.0, True), *[("wait", 0.01), ("wait", 0.01), ("read", 0)] * 4])
@example(
    [("board", [b"a"], 0, 9, 0.0, True), ("wait", 0.01), ("hang_up", 0), ("wait", 0.03), ("leave", 0), ("leave", 0)]
)
def test_a_ring_in_c_does_what_one_in_python_does(load: list[Step]) -> None:
    """Chunks that are taken whole, in part and not at all, connections that are gone, streams that leave."""
    rings = [Driven(open_ring(INTERVAL_S)), Driven((PlainChunkRing(INTERVAL_S), PlainSeat))]
    try:
        for step in load:
            ours, theirs = (ring.do(step) for ring in rings)
            assert ours == theirs, step
    finally:
        for ring in rings:
            ring.close()


@pytest.fixture(params=["in C", "in Python"])
def opened(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A ring, and what makes its seats."""
    return open_ring(INTERVAL_S) if request.param == "in C" else (PlainChunkRing(INTERVAL_S), PlainSeat)


def test_a_ride_writes_each_chunk_when_it_is_due_and_not_before(opened: tuple[Any, Any]) -> None:
    """Five streams of three chunks; a seat comes back when its fourth would be due."""
    ring, new_seat = opened
    ours, theirs = socket.socketpair()
    with ours, theirs:
        seats = [new_seat(ours.fileno(), (b"%d" % number,), 0, 3) for number in range(5)]
        due_s = [time.perf_counter() + 0.005 + 1e-3 * number for number in range(5)]
        for seat, first_s in zip(seats, due_s, strict=True):
            ring.board(seat, first_s)
        ended = [ring.ride(time.perf_counter() + 60.0, ours.fileno(), None) for _ in seats]
        assert ended == seats
        assert theirs.recv(100) == 3 * b"01234"
        for seat, first_s in zip(seats, due_s, strict=True):
            written_s = np.frombuffer(seat.take()).tolist()
            assert len(written_s) == 3
            for number, at_s in enumerate(written_s):
                assert at_s >= first_s + number * INTERVAL_S
        assert time.perf_counter() >= due_s[-1] + 3 * INTERVAL_S


def test_a_ride_ends_at_its_time(opened: tuple[Any, Any]) -> None:
    """With something due later, with nothing at all, and at once if its time has passed: what is due is written first."""
    ring, new_seat = opened
    ours, theirs = socket.socketpair()
    with ours, theirs:
        until_s = time.perf_counter() + 0.005
        assert ring.ride(until_s, ours.fileno(), None) is None
        assert time.perf_counter() >= until_s
        ring.board(new_seat(ours.fileno(), (b"a",), 0, 9), until_s)
        until_s += 0.5 * INTERVAL_S
        assert ring.ride(until_s, ours.fileno(), None) is None
        assert time.perf_counter() >= until_s
        assert theirs.recv(100) == b"a"
        assert ring.ride(until_s - INTERVAL_S, -1, None) is None
        ring.board(new_seat(ours.fileno(), (b"b",), 0, 9), until_s := time.perf_counter() + 1e-4)
        assert ring.ride(until_s + 1e-5, ours.fileno(), None) is None
        assert theirs.recv(100) == b"b"


def test_a_ride_without_end_waits_for_others(opened: tuple[Any, Any]) -> None:
    ring, _ = opened
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"!")
        assert ring.ride(math.inf, ours.fileno(), None) is None


def test_a_ride_ends_when_others_have_something_to_do(opened: tuple[Any, Any]) -> None:
    """What is due at that moment is written before."""
    ring, new_seat = opened
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"!")
        now_s = time.perf_counter()
        ring.board(new_seat(ours.fileno(), (b"a",), 0, 9), now_s)
        assert ring.ride(now_s + 60.0, ours.fileno(), None) is None
        assert theirs.recv(100) == b"a"
        assert time.perf_counter() < now_s + 30.0


def test_the_switch_leaves_the_part_in_c_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    assert isinstance(open_ring(INTERVAL_S)[0], PlainChunkRing)


def test_who_gets_what_was_not_taken_may_change_the_ring() -> None:
    """A connection that is found gone takes its stream away, in the midst of writing in C; the others go on."""
    ring, new_seat = open_ring(INTERVAL_S)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        seats = [new_seat(ours.fileno() if number % 2 else -1, (b"%d" % number,), 0, 3) for number in range(6)]
        for number, seat in enumerate(seats):
            ring.board(seat, 1e-3 * number)

        def rest(seat: Any, left: bytes) -> int:
            ring.leave(seat)
            return -1

        ended = []
        while (seat := ring.write(1.0, rest)) is not None:
            ended.append(seats.index(seat))
        assert ended == [1, 3, 5]
        assert theirs.recv(100) == 3 * b"135"
        assert ring.next_s() is None


def test_an_error_of_who_gets_the_rest_comes_through() -> None:
    ring, new_seat = open_ring(INTERVAL_S)
    ring.board(new_seat(-1, (b"a",), 0, 3), 0.0)

    def rest(seat: Any, left: bytes) -> int:
        raise ZeroDivisionError(left)

    with pytest.raises(ZeroDivisionError, match="a"):
        ring.write(1.0, rest)


@pytest.mark.parametrize(
    ("chunks", "first", "count"),
    [((), 0, 1), ((b"a",) * 33, 0, 1), ((b"a",), 1, 1), ((b"a",), -1, 1), ((b"a",), 0, -1)],
)
def test_a_seat_without_sense_is_refused(chunks: tuple[bytes, ...], first: int, count: int) -> None:
    new_seat: Any = open_ring(INTERVAL_S)[1]
    with pytest.raises(ValueError, match=f"^{count} chunks from number {first} on, of {len(chunks)}$"):
        new_seat(1, chunks, first, count)
    with pytest.raises(TypeError):
        new_seat(1, ("text",), 0, 1)
