"""Sleeping, cooperatively: until an absolute time to some ten microseconds, or just long enough to let others go first."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable

import gevent
from gevent.hub import get_hub

_CLOCK_MONOTONIC = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_READABLE = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


def give_way() -> None:
    """Let whoever is due go first: sockets, timers, other greenlets; to be called in the middle of longer work.

    `gevent.sleep(0)` does less: the hub goes on with greenlets like this one for up to 5 ms before it looks at sockets.
    """
    gevent.sleep(1e-6)


class TimerFd:
    """A timerfd on the clock of `time.perf_counter`. Raises OSError where there is none (anywhere but on Linux)."""

    def __init__(self) -> None:
        if sys.platform != "linux":  # there perf_counter is CLOCK_MONOTONIC
            raise OSError("there are no timerfds here")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _TimerSpec()
        self._at = ctypes.byref(self._spec)

    def set(self, at_s: float) -> None:
        """Become readable at that time, or at once if it has passed; what was set before is forgotten."""
        seconds = int(at_s)
        self._spec.value.seconds = seconds
        self._spec.value.nanoseconds = int((at_s - seconds) * 1e9)
        if self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._at, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def take(self) -> None:
        """It was readable: until it is set again it no longer is."""
        os.read(self.fd, 8)

    def close(self) -> None:
        """Free the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Alarm:
    """Calls back in the hub at an absolute time of `time.perf_counter`, once each time that it is set."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._timer = TimerFd()
        self._watcher = get_hub().loop.io(self._timer.fd, _READABLE)
        self._watcher.start(self._ring)
        self.set = self._timer.set

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
        get_hub().wait(self._watcher)
        self._timer.take()

    def close(self) -> None:
        """Free the descriptor."""
        if self._timer is not None and self._timer.fd >= 0:
            self._watcher.stop()
            self._watcher.close()
            self._timer.close()
