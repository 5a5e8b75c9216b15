"""An alarm at an absolute time, exact to some microseconds, for an asyncio loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from fineserve_shapes.timerfd import TimerFd


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
