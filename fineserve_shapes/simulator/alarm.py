"""Waiting for an absolute time beside an asyncio loop: an alarm, exact to some microseconds, and a nap."""

from __future__ import annotations

import asyncio
import ctypes
import math
import select
import time
from collections.abc import Callable

from fineserve_shapes.timerfd import TimerFd

_PR_SET_TIMERSLACK = 29  # of <linux/prctl.h>; in nanoseconds


class EarliestAlarm:
    """Calls `callback` once when `time.perf_counter()` (CLOCK_MONOTONIC on Linux) reaches the earliest time asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._timer = TimerFd()
        self._loop = loop
        self._callback = callback
        self._set_s = math.inf
        loop.add_reader(self._timer.fd, self._ring)

    def advance(self, at_s: float) -> None:
        """Ring at `at_s`, at once if that is past, unless it is to ring earlier anyway."""
        if at_s < self._set_s:
            self._set_s = at_s
            self._timer.set(at_s)  # which also takes back that it is readable: no read is needed

    def close(self) -> None:
        """Never again."""
        self._loop.remove_reader(self._timer.fd)
        self._timer.close()

    def _ring(self) -> None:
        self._set_s = math.inf
        self._callback()
        if self._set_s == math.inf:
            self._timer.clear()  # or epoll would report it for ever


class Nap:
    """Waits in the midst of a callback, unless the loop has something to do: that costs a tenth of a turn of the loop.

    Callbacks that the loop runs soon, or at a time of their own, wait meanwhile: a nap should be short.
    """

    def __init__(self, loop_fd: int) -> None:
        self._watched = (loop_fd,)
        # else the kernel may let every wait of this thread end 50 us late
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3)

    def until(self, at_s: float) -> bool:
        """Wait until then; False, and at once, if the loop has something to do."""
        return not select.select(self._watched, (), (), max(0.0, at_s - time.perf_counter()))[0]
