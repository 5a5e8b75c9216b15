"""Sleeping, cooperatively: until an absolute time to some ten microseconds, or just long enough to let others go first."""

from __future__ import annotations

import ctypes
import os
import sys
import time

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


class Timer:
    """Sleeps towards absolute times of `time.perf_counter`.

    On Linux it is a timerfd that the gevent hub watches: libev rounds its own timers to about a millisecond. Elsewhere
    it sleeps with gevent. One greenlet at a time may sleep on it.
    """

    def __init__(self) -> None:
        self._fd = -1
        if sys.platform == "linux":  # there perf_counter is CLOCK_MONOTONIC
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self._fd >= 0:
            self._watcher = get_hub().loop.io(self._fd, _READABLE)
            self._spec = _TimerSpec()

    def sleep_until(self, at_s: float) -> None:
        """Return at this time of perf_counter, or at once if it has passed."""
        if at_s <= time.perf_counter():
            return
        if self._fd < 0:
            while (left_s := at_s - time.perf_counter()) > 0:  # libev counts from when it last looked at the clock
                gevent.sleep(left_s)
            return
        seconds = int(at_s)
        self._spec.value.seconds = seconds
        self._spec.value.nanoseconds = int((at_s - seconds) * 1e9)
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        get_hub().wait(self._watcher)
        os.read(self._fd, 8)

    def close(self) -> None:
        """Free the descriptor."""
        if self._fd >= 0:
            self._watcher.stop()
            self._watcher.close()
            os.close(self._fd)
            self._fd = -1
