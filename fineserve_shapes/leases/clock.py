"""Common time: what the master's clock shows, estimated on a worker by ping-pong.

What may live here: the estimate. The clock of every process is `time.perf_counter`; the messages are sent elsewhere.
"""

from __future__ import annotations

from collections import deque

KEPT_PINGS = 60
ROUNDING_S = 1e-6
MAX_DRIFT = 1e-4  # between two computers' clocks, s/s: quartz differs by less


class ClockEstimate:
    """The master's clock less this process's, from all that the last pings say.

    A ping sent at t1 whose answer comes at t4 carries the master's time t2: with equal ways there and back the offset is
    t2 - (t1 + t4) / 2, and whatever the ways, the error is then at most half of the round trip t4 - t1. Clocks drift
    apart by at most `MAX_DRIFT`, so at a later time t the error is at most (t4 - t1) / 2 + MAX_DRIFT (t - t1). The offset
    lies within the bounds of every ping; the estimate is the middle of what they leave. Source: Cristian, "Probabilistic
    clock synchronization", 1989.

    Processes of one machine read one clock and need no estimate. Who says so is believed for as long as no ping speaks
    against it (a container may be given a clock of its own).

    offset_s, uncertainty_s: the estimate and its bound at the time of the last ping, seconds; (0, inf) before the first.
    """

    def __init__(self, *, same_clock: bool = False) -> None:
        self._pings: deque[tuple[float, float, float]] = deque(maxlen=KEPT_PINGS)
        self._own_clock = False  # a ping showed that it is not the master's
        self.pings = 0
        self.offset_s = 0.0
        self.uncertainty_s = 0.0 if same_clock else float("inf")

    def answered(self, sent_s: float, master_s: float, received_s: float, *, same_clock: bool = False) -> None:
        """Take one ping: sent and received by this process's clock, answered at the master's.

        same_clock: whether the master says that it runs on this machine.
        """
        self.pings += 1
        half_s, offset_s = (received_s - sent_s) / 2, master_s - (sent_s + received_s) / 2
        self._pings.append((half_s, sent_s, offset_s))
        self._own_clock |= abs(offset_s) > half_s + ROUNDING_S
        if same_clock and not self._own_clock:
            self.offset_s = self.uncertainty_s = 0.0
            return
        bounds = [(half + MAX_DRIFT * (received_s - at_s), offset) for half, at_s, offset in self._pings]
        least_s, most_s = (
            max(offset - error for error, offset in bounds),
            min(offset + error for error, offset in bounds),
        )
        if least_s <= most_s:
            self.offset_s, self.uncertainty_s = (least_s + most_s) / 2, (most_s - least_s) / 2
        else:  # the clocks drift faster than clocks do: the best single ping
            self.uncertainty_s, self.offset_s = min(bounds)
