"""Loop delay: how late this process wakes when it has asked to be woken, by which all that it does may be late."""

from __future__ import annotations

import time
from typing import NoReturn

import gevent
import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.timer import Timer

EVERY_S = 0.05


class LoopDelay:
    """Sleeps 50 ms towards an absolute time, again and again, and keeps by how much it overslept."""

    def __init__(self) -> None:
        self._late_s: list[float] = []
        self._greenlet = gevent.spawn(self._watch)

    def take(self) -> FloatArray:
        """The delays since the last call, shape (n,), seconds."""
        late_s, self._late_s = self._late_s, []
        return np.array(late_s, dtype=np.float64)

    def stop(self) -> None:
        """Watch no longer."""
        self._greenlet.kill()

    def _watch(self) -> NoReturn:
        timer = Timer()
        try:
            while True:
                wake_s = time.perf_counter() + EVERY_S
                timer.sleep_until(wake_s)
                self._late_s.append(time.perf_counter() - wake_s)
                if len(self._late_s) > 10_000:  # they are not being taken
                    del self._late_s[:5_000]
        finally:
            timer.close()
