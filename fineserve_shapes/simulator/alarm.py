"""An alarm at an absolute time, exact to some microseconds, for an asyncio loop.

asyncio's own timers are rounded up to a millisecond by epoll; a timerfd is a file descriptor that becomes readable at
its time. `os` has had it since Python 3.13 only, so it comes from the C library.
"""

import asyncio
import ctypes
import math
import os
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK_CLOEXEC = 0o2004000
_TFD_TIMER_ABSTIME = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _TimerSpec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls `callback` once when `time.perf_counter()` (CLOCK_MONOTONIC on Linux) reaches the earliest time asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._fd = int(_libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = loop
        self._callback = callback
        self._spec = _TimerSpec()
        self._spec_pointer = ctypes.byref(self._spec)
        self._set_s = math.inf
        loop.add_reader(self._fd, self._ring)

    def advance(self, at_s: float) -> None:
        """Ring at `at_s`, at once if that is past, unless it is to ring earlier anyway."""
        if at_s < self._set_s:
            self._set(at_s)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _set(self, at_s: float) -> None:
        self._set_s = at_s
        # all zero disarms it
        at_ns = 0 if at_s == math.inf else max(1, math.ceil(at_s * 1e9))
        self._spec.value_s, self._spec.value_ns = divmod(at_ns, 1_000_000_000)
        # setting also takes back that the descriptor is readable: no read is needed
        _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._spec_pointer, None)

    def _ring(self) -> None:
        self._set_s = math.inf
        self._callback()
        if self._set_s == math.inf:
            self._set(math.inf)  # or epoll would report it for ever
