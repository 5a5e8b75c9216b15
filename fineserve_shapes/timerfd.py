"""timerfd: a file descriptor of Linux that becomes readable at a time, exact to some microseconds, for any event loop.

epoll and libev round the timers of their own to about a millisecond. `os` has had timerfds since Python 3.13 only, so
they come from the C library.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
import sys

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TIMER_ABSTIME = 1


_SPEC = struct.Struct("@4l")  # interval and time, each in seconds and nanoseconds


class TimerFd:
    """A timerfd on the clock of `time.perf_counter`. Raises OSError where there is none (anywhere but on Linux)."""

    def __init__(self) -> None:
        if sys.platform != "linux":  # there perf_counter is CLOCK_MONOTONIC
            raise OSError("there are no timerfds here")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._settime = self._libc.timerfd_settime
        self._spec = ctypes.create_string_buffer(_SPEC.size)

    def set(self, at_s: float, every_s: float = 0.0) -> None:
        """Become readable at that time, or at once if it has passed; what was set before is forgotten.

        every_s: and from then on again and again; 0: once.
        """
        self._set_ns(max(1, math.ceil(at_s * 1e9)), math.ceil(every_s * 1e9))

    def clear(self) -> None:
        """Forget what was set, and be readable no longer."""
        self._set_ns(0)

    def take(self) -> None:
        """It was readable: until it is set again it no longer is."""
        try:  # noqa: SIM105 - contextlib costs as much as the call
            os.read(self.fd, 8)
        except BlockingIOError:  # it was set anew since
            pass

    def close(self) -> None:
        """Free the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _set_ns(self, at_ns: int, every_ns: int = 0) -> None:
        _SPEC.pack_into(self._spec, 0, *divmod(every_ns, 1_000_000_000), *divmod(at_ns, 1_000_000_000))
        if self._settime(self.fd, _TIMER_ABSTIME, self._spec, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
