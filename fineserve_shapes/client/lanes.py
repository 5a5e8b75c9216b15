"""Lanes: who reads a socket, Python or a part in C that knows one thing.

Nearly all that a stream sends is one more event that equals the last one but for its text. Once an answer's reader has
learned such an event (`protocol.repeats`), its connection gets a lane: whole chunks of HTTP that hold one more of them
are then read, recognised and given their times in C, some tens of them a tick, without a line of Python between them.
Whatever is anything else comes to Python as it was read, with its times. A lane's pieces are taken over before that, and
at the end. A connection whose answer has no such event, or not yet, has a lane that knows nothing: what comes is read in
time all the same, however long Python takes to come to it.

There is nothing in a lane that Python does not do as well, only slower: without the part in C (another system, no
compiler at installation, FINESERVE_NO_LANES set) every read goes the plain way, to the same results. A test holds
the two to that.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fineserve_shapes.client._lanes import Lane

SWITCH = "FINESERVE_NO_LANES"
"""Set to anything, it leaves the part in C out."""

_VERSION = 5

Others = list[tuple[int, bytes | int | None, float, float, float]]
"""Descriptors that are Python's to serve, with what was read (or the error of the read, or None where nothing was read
yet), when that came, when it had been read, and when the descriptor had last been known to be empty before."""


class Lanes(Protocol):
    """What finds readable sockets and reads those with a lane.

    gap_s: the short gaps between the reads of one stream, as a running estimate of a quantile; 0 before there is one.
    emptied_s: when all sockets were last known to be empty, by whoever drains them: what is read now came later.
    close_s: a piece may stay unread for a while where it is known to have come between two that lie so close to each
    other; 0: none may.
    """

    gap_s: float
    emptied_s: float
    close_s: float

    def lay(self, fd: int, lane: Lane) -> None:
        """From now on this lane takes what it knows of what the descriptor gives."""

    def lift(self, fd: int) -> None:
        """No lane any longer; what it holds it still holds."""

    def offer(self, fd: int, data: bytes, at_s: float, read_s: float, empty_s: float) -> bool:
        """Give a lane what was read before it was laid; whether it has taken it."""

    def drain(self, most: int, until_s: float) -> tuple[int, Others]:
        """Serve so many readable descriptors at most, and none after that time (perf_counter) but a few, and those that the
        times of others need.

        How many there were (`most` where there may be more), and those that are for Python to serve. A lane that read
        what is Python's knows nothing any longer.
        """

    def catch_up(self, fd: int) -> Others:
        """Read what a lane has left unread; what of that is for Python to serve."""

    def take_delays(self) -> bytes:
        """Of each read by a lane since the last call: from its stamp to when it had been read; seconds, as doubles."""

    def take_unsure(self) -> bytes:
        """Of those with pieces that were not told apart: from when the first of them may have come to the stamp."""

    def take_between(self) -> bytes:
        """Of each piece that was unread for a while: how far apart those are that it came between."""


class NoLanes:
    """All is Python's to read."""

    def __init__(self, epoll: select.epoll) -> None:
        self.gap_s = self.emptied_s = self.close_s = 0.0
        self._epoll = epoll

    def lay(self, fd: int, lane: Lane) -> None:
        """There are none to lay."""

    def lift(self, fd: int) -> None:
        """There are none."""

    def offer(self, fd: int, data: bytes, at_s: float, read_s: float, empty_s: float) -> bool:  # noqa: ARG002
        """There is none to take it."""
        return False

    def drain(self, most: int, until_s: float) -> tuple[int, Others]:  # noqa: ARG002 - who reads them looks at the time
        """See `Lanes`."""
        found = self._epoll.poll(0, most)
        return len(found), [(fd, None, 0.0, 0.0, 0.0) for fd, _events in found]

    def catch_up(self, fd: int) -> Others:  # noqa: ARG002
        """Nothing is left unread."""
        return []

    def take_delays(self) -> bytes:
        """There are none."""
        return b""

    take_unsure = take_between = take_delays


def lane_type() -> type[Lane] | None:
    """What makes a lane: None where all is Python's to read."""
    if os.environ.get(SWITCH):
        return None
    try:
        from fineserve_shapes.client._lanes import VERSION, Lane
    except ImportError:
        return None
    return Lane if VERSION == _VERSION else None  # else it was built before this module was changed


def open_lanes(epoll: select.epoll, shorter: float, longer: float) -> Lanes:
    """Lanes over an epoll descriptor. shorter, longer: the factors of a step of `gap_s`."""
    if lane_type() is None:
        return NoLanes(epoll)
    from fineserve_shapes.client._lanes import Lanes as LanesInC

    return LanesInC(epoll.fileno(), shorter, longer)
