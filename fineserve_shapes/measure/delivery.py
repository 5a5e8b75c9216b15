"""Delivery: how bursty the load was that was asked for, and the load that left, measured alike while a run goes on.

Both are of the same rows, so the difference between them is no matter of chance. One thing is: a request that leaves a
tenth of a millisecond late may fall into the next bin of a second, which is no other load. So the counts in bins are
taken of times from which a lag that is allowed is taken off; the gaps are those of the real times.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.measure.dispersion import Burstiness, BurstinessMeter

HOLD_S = 10.0
"""Workers tell what they sent in turns, and a paused one late: times are put in order for as long."""


class Delivery:
    """Meters over the same time: of due times, and of times of sending.

    allowed_lag_s: a request that left within that of when it was due counts in the bin in which it was due.

    Memory is that of the times of the last `HOLD_S` seconds. A time of sending that is told later still is counted at the
    latest time that was taken already, and in `told_late`.
    """

    def __init__(self, allowed_lag_s: float = 0.0) -> None:
        self._allowed_lag_s = allowed_lag_s
        self._asked = _Meter()
        self._sent = _Meter()
        self._counted = _Meter()  # sent, less the lag that is allowed
        self.finished = False

    def plan(self, due_s: FloatArray) -> None:
        """Rows are due then."""
        self._asked.add(due_s)

    def sent(self, sent_s: FloatArray, due_s: FloatArray) -> None:
        """Requests left then, and should have left when they were due, in any order."""
        self._sent.add(sent_s)
        # a time that is within what is allowed is the due one to the last bit: it may be the border of a bin
        allowed_s = self._allowed_lag_s
        self._counted.add(np.clip(due_s, sent_s - allowed_s, sent_s + allowed_s))

    def advance(self, now_s: float) -> None:
        """It is that late in the run: what is due is due, and what was sent some seconds ago has been told."""
        self._asked.take(now_s)
        self._sent.take(now_s - HOLD_S)
        self._counted.take(now_s - HOLD_S)

    def finish(self, end_s: float) -> None:
        """The run is over: rows due after its end were not asked for."""
        self._asked.take(end_s)
        self._sent.take(float("inf"))
        self._counted.take(float("inf"))
        self.finished = True

    def result(self) -> dict[str, Any]:
        """`asked` and `delivered`, each `requests`, `rate_rps`, `gap_cv` and `dispersion` by width ("1", "10", "300" s),
        None where there is too little to tell; `span_s`, the time that both are taken over; `told_late`. Where all are due
        at once there is no rate: the time that they took to leave is of our making."""
        span_s = max(self._asked.until_s, self._sent.until_s)
        asked, sent = self._asked.meter.result(span_s), self._sent.meter.result(span_s)
        sent = replace(sent, dispersion=self._counted.meter.result(span_s).dispersion)
        if not self._asked.until_s:
            asked, sent = replace(asked, rate_rps=None), replace(sent, rate_rps=None)
        return {
            "span_s": span_s,
            "asked": _plain(asked),
            "delivered": _plain(sent),
            "told_late": self._sent.late,
        }

    @property
    def last_due_s(self) -> float:
        """When the last of them fell due; 0 where none has."""
        return self._asked.until_s

    @property
    def due(self) -> int:
        """How many rows have fallen due."""
        return self._asked.meter.result().requests


class _Meter:
    """A meter behind a shelf on which times come into order."""

    def __init__(self) -> None:
        self.meter = BurstinessMeter()
        self.until_s = 0.0  # the latest time taken
        self.late = 0
        self._shelf: list[FloatArray] = []

    def add(self, times_s: FloatArray) -> None:
        if len(times_s):
            self._shelf.append(np.maximum(times_s, 0.0))

    def take(self, until_s: float) -> None:
        if not self._shelf:
            return
        times_s = np.sort(np.concatenate(self._shelf))
        end = int(np.searchsorted(times_s, until_s, side="right"))
        ready = times_s[:end]
        self._shelf = [times_s[end:]] if end < len(times_s) else []
        if end:
            self.late += int(np.searchsorted(ready, self.until_s))
            ready = np.maximum(ready, self.until_s)
            self.meter.add(ready)
            self.until_s = float(ready[-1])


def _plain(found: Burstiness) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "rate_rps": found.rate_rps,
        "gap_cv": found.gap_cv,
        "dispersion": {str(width_s): value for width_s, value in found.dispersion.items()},
    }
