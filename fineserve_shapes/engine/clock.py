"""Common time: what the master's clock shows, estimated on a worker by ping-pong.

What may live here: the estimate. The clock of every process is `time.perf_counter`; the messages are others' business.
"""

from __future__ import annotations

from collections import deque

KEPT_PINGS = 60
MAX_DRIFT = 1e-4  # between two computers' clocks, s/s: quartz differs by less


class ClockEstimate:
    """The master's clock less this process's, from the ping that bounds it best among the last.

    A ping sent at t1 whose answer comes at t4 carries the master's time t2: with equal ways there and back the offset is
    t2 - (t1 + t4) / 2, and whatever the ways, the error is then at most half of the round trip t4 - t1. Clocks drift
    apart by at most `MAX_DRIFT`, so at a later time t the error is at most (t4 - t1) / 2 + MAX_DRIFT (t - t1): a quick
    ping counts until a newer one bounds the offset better. Source: Cristian, "Probabilistic clock synchronization", 1989.

    offset_s, uncertainty_s: the estimate and its bound at the time of the last ping, seconds; (0, inf) before the first.
    """

    def __init__(self, *, same_clock: bool = False) -> None:
        self._pings: deque[tuple[float, float, float]] = deque(maxlen=KEPT_PINGS)
        self.pings = 0
        self.offset_s = 0.0
        self.uncertainty_s = 0.0 if same_clock else float("inf")

    def answered(self, sent_s: float, master_s: float, received_s: float) -> None:
        """Take one ping: sent and received by this process's clock, answered at the master's."""
        self.pings += 1
        self._pings.append(((received_s - sent_s) / 2, sent_s, master_s - (sent_s + received_s) / 2))
        self.uncertainty_s, self.offset_s = min(
            (half_s + MAX_DRIFT * (received_s - at_s), offset_s) for half_s, at_s, offset_s in self._pings
        )
