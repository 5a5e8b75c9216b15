"""Common time: what the master's clock shows, estimated on a worker by ping-pong.

What may live here: the estimate. The clock of every process is `time.perf_counter`; the messages are others' business.
"""

from __future__ import annotations

from collections import deque

KEPT_PINGS = 60


class ClockEstimate:
    """The master's clock less this process's, from the ping with the least round trip among the last.

    A ping sent at t1 whose answer comes at t4 carries the master's time t2: with equal ways there and back the offset is
    t2 - (t1 + t4) / 2, and whatever the ways, the error is at most half of the round trip t4 - t1. Source: Cristian,
    "Probabilistic clock synchronization", 1989. Only the newest pings count, so that a drift is followed.

    offset_s, uncertainty_s: the estimate and its bound, seconds; (0, inf) before the first ping.
    """

    def __init__(self, *, same_clock: bool = False) -> None:
        self._pings: deque[tuple[float, float]] = deque(maxlen=KEPT_PINGS)
        self.pings = 0
        self.offset_s = 0.0
        self.uncertainty_s = 0.0 if same_clock else float("inf")

    def answered(self, sent_s: float, master_s: float, received_s: float) -> None:
        """Take one ping: sent and received by this process's clock, answered at the master's."""
        self.pings += 1
        self._pings.append((received_s - sent_s, master_s - (sent_s + received_s) / 2))
        round_trip_s, self.offset_s = min(self._pings)
        self.uncertainty_s = round_trip_s / 2
