"""Sleeping, cooperatively: until an absolute time to some ten microseconds, or just long enough to let others go first."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable

import gevent
from gevent.hub import get_hub

from fineserve_shapes.timerfd import TimerFd

_READABLE = 1
_A_MOMENT_S = 1e-4  # in which what was due begins


_asleep: dict[Timer, float] = {}
"""Until when each timer's greenlet sleeps."""
_beginning: set[object] = set()


def next_due_s() -> float:
    """When the next greenlet that sleeps on a `Timer` is to wake, or minus infinity, if one that was due has not begun:
    longer work in the hub should have ended by then."""
    return -math.inf if _beginning else min(_asleep.values(), default=math.inf)


def begins(what: object) -> None:
    """It is due, and will have its turn when the hub has gone round; `has_begun` says that it had it."""
    _beginning.add(what)


def has_begun(what: object) -> None:
    """Or never will."""
    _beginning.discard(what)


def give_way() -> None:
    """Let sockets, timers and other greenlets that are due go first; to be called in the middle of longer work.

    `gevent.sleep(0)` does less: the hub goes on with greenlets like this one for up to 5 ms before it looks at sockets.
    """
    gevent.sleep(1e-6)


def wait_for_a_gap(of_s: float, within_s: float = 0.05) -> None:
    """Let others go first, and on until nothing will be due for so long, but for no more than `within_s`; to be called
    before work that takes as long in one piece and can wait."""
    until_s = time.perf_counter() + within_s
    give_way()
    while (now_s := time.perf_counter()) < until_s and (due_s := next_due_s()) < now_s + of_s:
        gevent.sleep(max(due_s - now_s, 0.0) + _A_MOMENT_S)


class Alarm:
    """Calls back in the hub at an absolute time of `time.perf_counter`: once each time that it is set, or regularly.

    set, clear: as TimerFd has them.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._timer = TimerFd()
        self._watcher = get_hub().loop.io(self._timer.fd, _READABLE)
        self._watcher.start(self._ring)
        self.set, self.clear = self._timer.set, self._timer.clear

    def close(self) -> None:
        """Never again."""
        self._watcher.stop()
        self._watcher.close()
        self._timer.close()

    def _ring(self) -> None:
        self._timer.take()
        self._callback()


class Timer:
    """Sleeps towards absolute times of `time.perf_counter`.

    On Linux it is a timerfd that the gevent hub watches: libev rounds its own timers to about a millisecond. Elsewhere
    it sleeps with gevent. One greenlet at a time may sleep on it.
    """

    def __init__(self) -> None:
        self._timer: TimerFd | None = None
        with contextlib.suppress(OSError):
            self._timer = TimerFd()
            self._watcher = get_hub().loop.io(self._timer.fd, _READABLE)

    def sleep_until(self, at_s: float) -> None:
        """Return at this time of perf_counter, or at once if it has passed."""
        if at_s <= time.perf_counter():
            return
        if self._timer is None:
            while (left_s := at_s - time.perf_counter()) > 0:  # libev counts from when it last looked at the clock
                gevent.sleep(left_s)
            return
        self._timer.set(at_s)
        _asleep[self] = at_s
        try:
            get_hub().wait(self._watcher)
        finally:
            del _asleep[self]
        self._timer.take()

    def close(self) -> None:
        """Free the descriptor."""
        if self._timer is not None and self._timer.fd >= 0:
            self._watcher.stop()
            self._watcher.close()
            self._timer.close()
