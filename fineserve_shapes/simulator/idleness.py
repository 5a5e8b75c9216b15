"""Connections that wait for a request, and the end of those that wait too long.

All may wait equally long, so a queue in order of time and one timer do for all of them.
"""

import asyncio
import time
from collections import deque
from typing import Protocol


class Idle(Protocol):
    """A connection, as its idleness sees it."""

    idle_since_s: float | None  # None while a request is in progress

    def close(self) -> None: ...


class Idleness:
    """Closes connections `limit_s` after they became idle."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._queue: deque[tuple[float, Idle]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: Idle) -> None:
        """The connection is idle from now on, until someone sets its `idle_since_s` to None."""
        connection.idle_since_s = now_s = time.perf_counter()
        self._queue.append((now_s, connection))
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._sweep)

    def close(self) -> None:
        """Forget all of them."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        until_s = time.perf_counter() - self._limit_s
        while self._queue and self._queue[0][0] <= until_s:
            since_s, connection = self._queue.popleft()
            if connection.idle_since_s == since_s:
                connection.close()
        if self._queue:
            self._timer = self._loop.call_later(self._queue[0][0] - until_s, self._sweep)
