"""Flow: the rate of now, of something that is counted."""

from __future__ import annotations

from collections import deque

OVER_S = 5.0


class Flow:
    """The mean rate over the last `OVER_S` seconds of a count that only grows, from what it was now and then."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def note(self, at_s: float, count: int) -> None:
        """It is so much by now. Times ascend."""
        self._counts.append((at_s, count))
        while len(self._counts) > 2 and self._counts[1][0] <= at_s - OVER_S:
            self._counts.popleft()

    @property
    def over_s(self) -> float:
        """The seconds that the rate is taken over; 0 where there is none yet."""
        return self._counts[-1][0] - self._counts[0][0] if self._counts else 0.0

    @property
    def rate(self) -> float | None:
        """Per second; None before there is one."""
        if self.over_s <= 0:
            return None
        return (self._counts[-1][1] - self._counts[0][1]) / self.over_s
