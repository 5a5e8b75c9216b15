"""How an asyncio loop waits while tokens are due: its selector leaves the waiting to others, and naps are exact."""

from __future__ import annotations

import ctypes
import math
import select
import selectors
import time
from collections.abc import Callable

_PR_SET_TIMERSLACK = 29  # of <linux/prctl.h>; in nanoseconds


class PacedSelector(selectors.EpollSelector):
    """An epoll selector that calls `wait` where it would wait itself; what is readable then, it gives at once.

    wait: until a time of `time.perf_counter()`, infinity included, at the latest, but no longer than nothing is readable.
    """

    def __init__(self, wait: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self.wait = wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors`."""
        if self.wait is None:
            return super().select(timeout)
        self.wait(math.inf if timeout is None else time.perf_counter() + timeout)
        return super().select(0)


def readable(fd: int, until_s: float) -> bool:
    """Wait until a descriptor is readable, or until then, infinity included; whether it is."""
    for_s = None if until_s == math.inf else max(0.0, until_s - time.perf_counter())
    return bool(select.select((fd,), (), (), for_s)[0])


class Nap:
    """Waits until a descriptor is readable, or a time at the latest."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # else the kernel may let every wait of this thread end 50 us late
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3)

    def until(self, at_s: float) -> None:
        """Wait until then, or until it is readable."""
        readable(self._fd, at_s)
