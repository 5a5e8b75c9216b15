"""Rings: streams whose chunks are all due at one interval, and who writes these chunks, Python or a part in C.

All streams of a ring have the same interval, so they stay in one order and come round in it again and again, a round an
interval. Their chunks are rendered before they are due. What is left to do a chunk is a look at the clock, a write, the
keeping of the time, and the waiting for the next one: the part in C does that without a line of Python in between.

There is nothing in it that Python does not do as well, only slower: without it (another system, no compiler at
installation, FINESERVE_NO_RING set) `PlainChunkRing` writes the same bytes at the same times. A test holds the two to that.
"""

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Protocol

from fineserve_shapes.simulator.burst import LARGEST, write_chunks
from fineserve_shapes.simulator.phrase import repeated
from fineserve_shapes.simulator.waiting import readable

SWITCH = "FINESERVE_NO_RING"
"""Set to anything, it leaves the part in C out."""

ROUNDING_S = 1e-7
"""More than what a due time differs by that is added up in another order: nothing goes out before it is due."""
GATHER_S = 2.5e-4
"""The time between two wake-ups for chunks at least: what falls due in between is written together, so much late.

A wake-up costs as much as writing a chunk or more.
"""

_VERSION = 2


class Seat(Protocol):
    """A stream's place in a ring: where its chunks go, which they are, and when they were written.

    Made of a descriptor (-1: there is none to write to), chunks that come again and again, the number of the first one,
    and how many will be written.
    """

    def take(self) -> bytes:
        """When chunks were written since the last call, each just before its write: seconds, as doubles."""
        ...


class ChunkRing(Protocol):
    """Seats in order of time, for whoever looks at the clock."""

    def board(self, seat: Any, due_s: float) -> None:
        """Let a stream ride along. Its next chunk is due then, one interval from now at most."""
        ...

    def leave(self, seat: Any) -> None:
        """Write nothing more of it."""
        ...

    def next_s(self) -> float | None:
        """When something is due next: a chunk or the end of a seat. None if all seats are empty."""
        ...

    def write(self, until_s: float, rest: Callable[[Any, bytes], int]) -> Any:
        """Write what is due until then, in order of time; None once that is done.

        Before that, a seat whose chunks have all been written, when the next one would be due: it has left the ring.
        rest: gets a seat and what its socket has not taken of a chunk; returns the descriptor for the next one.
        """
        ...

    def ride(self, until_s: float, fd: int, rest: Callable[[Any, bytes], int]) -> Any:
        """The same whenever something is due, until `fd` is readable or the time has come."""
        ...


class PlainSeat:
    """A seat in Python."""

    __slots__ = ("fd", "left", "written_s")

    def __init__(self, fd: int, chunks: tuple[bytes, ...], first: int, count: int) -> None:
        self.fd = fd
        self.left = repeated(chunks, range(first, first + count))
        self.written_s = array("d")

    def take(self) -> bytes:
        """See `Seat`."""
        taken = self.written_s.tobytes()
        del self.written_s[:]
        return taken


class PlainChunkRing:
    """A ring in Python.

    What a chunk needs stands in columns in order of time. Other objects are left alone: after a system call, and between
    hundreds of streams, whatever is touched comes from far.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._round = 0
        self._place = 0  # of the seat whose turn is next; those before it have had their chunk of this round
        self._offset_s: list[float] = []  # when the chunk is due, counted from the beginning of the round
        self._fd: list[int] = []
        self._left: list[Iterator[bytes]] = []
        self._keep: list[Callable[[float], None]] = []  # takes the time of a write
        self._seat: list[PlainSeat] = []

    def board(self, seat: PlainSeat, due_s: float) -> None:
        """See `ChunkRing`."""
        offset_s = due_s - self._round * self._interval_s
        place = bisect_right(self._offset_s, offset_s, self._place)
        if self._place and place == len(self._offset_s) and offset_s - self._interval_s >= self._offset_s[0]:
            # after all that are still due in this round, and not before those of the next one
            offset_s -= self._interval_s
            place = bisect_right(self._offset_s, offset_s, 0, self._place)
            self._place += 1
        self._offset_s.insert(place, offset_s)
        self._fd.insert(place, seat.fd)
        self._left.insert(place, seat.left)
        self._keep.insert(place, seat.written_s.append)
        self._seat.insert(place, seat)

    def leave(self, seat: PlainSeat) -> None:
        """See `ChunkRing`."""
        self._remove(self._seat.index(seat))

    def next_s(self) -> float | None:
        """See `ChunkRing`."""
        if not self._seat:
            return None
        turns, place = divmod(self._place, len(self._seat))
        return self._offset_s[place] + (self._round + turns) * self._interval_s + ROUNDING_S

    def write(self, until_s: float, rest: Callable[[PlainSeat, bytes], int]) -> PlainSeat | None:
        """See `ChunkRing`."""

        def write_rest(place: int, left: bytes) -> None:
            self._fd[place] = rest(self._seat[place], left)

        until_s -= ROUNDING_S
        while self._seat:
            if self._place == len(self._seat):
                self._place = 0
                self._round += 1
            first = self._place
            most = min(first + LARGEST, len(self._seat))
            end = bisect_right(self._offset_s, until_s - self._round * self._interval_s, first, most)
            if end == first:
                break
            chunks = list(map(next, self._left[first:end]))  # up to the first one that has none left
            self._place = last = first + len(chunks)
            places = slice(first, last)
            write_chunks(zip(count(first), self._fd[places], chunks, self._keep[places], strict=False), write_rest)
            if last < end:
                return self._remove(last)
        return None

    def ride(self, until_s: float, fd: int, rest: Callable[[PlainSeat, bytes], int]) -> PlainSeat | None:
        """See `ChunkRing`."""
        while True:
            now_s = time.perf_counter()
            seat = self.write(now_s, rest)
            if seat is not None:
                return seat
            next_s = self.next_s()
            wake_s = until_s if next_s is None else min(until_s, max(next_s, now_s + GATHER_S))
            if now_s >= until_s or readable(fd, wake_s):
                return None

    def _remove(self, place: int) -> PlainSeat:
        for column in (self._offset_s, self._fd, self._left, self._keep):
            del column[place]
        if place < self._place:
            self._place -= 1
        return self._seat.pop(place)


def open_ring(interval_s: float) -> tuple[ChunkRing, Callable[[int, tuple[bytes, ...], int, int], Seat]]:
    """A ring, in C where that is built, and what makes its seats."""
    if not os.environ.get(SWITCH):
        try:
            from fineserve_shapes.simulator import _ring
        except ImportError:
            pass
        else:
            if _ring.VERSION == _VERSION:  # else it was built before this module was changed
                return _ring.ChunkRing(interval_s, ROUNDING_S, GATHER_S), _ring.Seat
    return PlainChunkRing(interval_s), PlainSeat
