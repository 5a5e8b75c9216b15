"""The time of what is read is when the kernel got it, however late a busy process reads; a clock that jumps is bounded."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest
from gevent import monkey
from hypothesis import given
from hypothesis import strategies as st
from servers import tcp_pair

from fineserve_shapes.client import receivestamps
from fineserve_shapes.client.receivestamps import StampedSocket, keep_stamping

_wait = monkey.get_original("time", "sleep")

SCHEDULING_S = 0.05  # by how much a loaded machine may be late
CLOCKS_S = 1e-4  # by how much two clocks of a machine that pauses may seem to differ
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what a TCP socket receives")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    ours, theirs = tcp_pair()
    ours.setblocking(True)
    yield ours, theirs
    for sock in (ours, theirs):
        sock.close()


@pytest.fixture(autouse=True)
def stamping() -> Iterator[None]:
    """The kernel stamps, from some milliseconds after it was first asked to."""
    keeper = keep_stamping()
    _wait(0.05)
    yield
    if keeper is not None:
        keeper.close()


@linux
def test_bytes_that_had_to_wait_have_the_time_at_which_they_came(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    stamped = StampedSocket(ours)
    for _ in range(3):
        before_s = time.perf_counter()
        theirs.sendall(b"token")
        after_s = time.perf_counter()
        _wait(0.2)
        data, at_s = stamped.recv(100)
        assert data == b"token"
        assert before_s - CLOCKS_S <= at_s < after_s + SCHEDULING_S


@linux
def test_pieces_read_at_once_have_the_time_of_the_newest(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    stamped = StampedSocket(ours)
    theirs.sendall(b"one")
    _wait(0.1)
    before_s = time.perf_counter()
    theirs.sendall(b"two")
    _wait(0.1)
    data, at_s = stamped.recv(100)
    assert data == b"onetwo"
    assert before_s - CLOCKS_S <= at_s < before_s + SCHEDULING_S


def test_without_stamps_it_is_the_time_of_the_read(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivestamps, "_stamped", lambda _: False)
    ours, theirs = pair
    stamped = StampedSocket(ours)
    theirs.sendall(b"token")
    _wait(0.1)
    before_s = time.perf_counter()
    data, at_s = stamped.recv(100)
    assert data == b"token"
    assert before_s <= at_s <= time.perf_counter()


def test_the_end_of_the_connection_and_an_empty_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    stamped = StampedSocket(ours)
    with pytest.raises(BlockingIOError):
        stamped.recv(100)
    theirs.close()
    _wait(0.05)
    before_s = time.perf_counter()
    data, at_s = stamped.recv(100)
    assert data == b""
    assert before_s <= at_s <= time.perf_counter()


class _Stamping:
    """A socket whose stamps are whatever the wall clock is made to say."""

    def __init__(self, stamps_ns: list[int | None]) -> None:
        self.stamps_ns = stamps_ns

    def setsockopt(self, *_: object) -> None:
        pass

    def recvmsg(self, _size: int, _space: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        stamp_ns = self.stamps_ns.pop(0)
        if stamp_ns is None:
            return b"x", [], 0, None
        return b"x", [(1, 35, struct.pack("@ll", *divmod(stamp_ns, 1_000_000_000)))], 0, None


@linux
@given(offsets_ns=st.lists(st.none() | st.integers(-(10**18), 10**18), min_size=1, max_size=20))
def test_whatever_the_wall_clock_does_times_do_not_go_back_nor_ahead(offsets_ns: list[int | None]) -> None:
    stamps_ns = [None if offset_ns is None else time.time_ns() + offset_ns for offset_ns in offsets_ns]
    stamped = StampedSocket(_Stamping(stamps_ns))  # type: ignore[arg-type]
    last_s = stamped.since_s
    for _ in offsets_ns:
        _, at_s = stamped.recv(100)
        assert last_s <= at_s <= time.perf_counter()
        last_s = at_s


@linux
def test_a_pause_between_the_two_clocks_does_not_make_bytes_older(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process is put aside just then, once."""
    pauses = [0.1]

    def wall_ns() -> int:
        if pauses:
            _wait(pauses.pop())
        return time.time_ns()

    ours, theirs = pair
    stamped = StampedSocket(ours)
    _wait(0.1)
    before_s = time.perf_counter()
    theirs.sendall(b"token")
    monkeypatch.setattr(receivestamps, "_wall_ns", wall_ns)
    _, at_s = stamped.recv(100)
    assert not pauses
    assert before_s - CLOCKS_S <= at_s < before_s + SCHEDULING_S
