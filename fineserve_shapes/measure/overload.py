"""Strain: whether a process keeps up, told while a run goes on."""

from __future__ import annotations

from fineserve_shapes.measure.histogram import Histogram

WINDOW_S = 5.0
REPEAT_S = 30.0


class Strain:
    """Looks at growing histograms of delays: what was their mean in the last window of 5 s?

    limit_s: a mean above it is worth a word, at most every 30 s for each name.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._before: dict[str, tuple[float, float, int]] = {}
        self._said_s: dict[str, float] = {}

    def excess_s(self, name: str, delays: Histogram, now_s: float) -> float | None:
        """The mean delay of the window that has just ended where it is worth a word."""
        began_s, sum_s, count = self._before.setdefault(name, (now_s, delays.sum_s, delays.count))
        if now_s - began_s < WINDOW_S:
            return None
        self._before[name] = (now_s, delays.sum_s, delays.count)
        if delays.count <= count or now_s - self._said_s.get(name, float("-inf")) < REPEAT_S:
            return None
        mean_s = (delays.sum_s - sum_s) / (delays.count - count)
        if mean_s <= self._limit_s:
            return None
        self._said_s[name] = now_s
        return mean_s
