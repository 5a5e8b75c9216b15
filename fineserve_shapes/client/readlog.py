"""Read log: how late bytes were read, and which times of tokens are not sure for that.

A read that finds the pieces of several tokens has one stamp for them, the newest's. Pieces that the server sent
together (in one chunk of HTTP) came together; others may have waited for the reader, and the time of the first of them
is off by at most the time since its connection was known to be empty.
"""

from __future__ import annotations

from array import array

import numpy as np

from fineserve_shapes.client.lanes import Lanes
from fineserve_shapes.measure.reads import Reads

USUAL_GAP = 0.1
"""The gap between tokens that the reader goes by: as a quantile of all."""
_STEP = 0.05
SHORTER, LONGER = 1 - _STEP * (1 - USUAL_GAP), 1 + _STEP * USUAL_GAP
"""The factors by which the estimate follows a gap that is shorter than it, or longer."""


class ReadLog:
    """Collects reads that held tokens, for one process. lanes: what is read without coming here."""

    __slots__ = ("_delays_s", "_first_s", "_lanes", "_shared_s")

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._delays_s = array("d")
        self._first_s = array("d")
        self._shared_s = array("d")

    @property
    def gap_s(self) -> float:
        """The short gaps between the reads of one stream: a running estimate of their quantile USUAL_GAP, 0 at first."""
        return self._lanes.gap_s

    def first(self, delay_s: float, unsure_s: float, pieces: int) -> None:
        """A read that held the first token of an answer, and so many pieces with tokens in all.

        delay_s: from the stamp to the read. unsure_s: from when the connection was known to be empty to the stamp.
        """
        self._delays_s.append(delay_s)
        if pieces > 1:
            self._shared_s.append(unsure_s)
            self._first_s.append(unsure_s)
        else:
            self._first_s.append(0.0)

    def later(self, delay_s: float, unsure_s: float, pieces: int, since_s: float) -> None:
        """A read of later tokens; since_s: from the stamp before to this one."""
        self._delays_s.append(delay_s)
        if pieces > 1:
            self._shared_s.append(unsure_s)
            since_s /= pieces
        gap_s = self._lanes.gap_s
        self._lanes.gap_s = gap_s * (SHORTER if since_s < gap_s else LONGER) if gap_s else since_s

    def take(self) -> Reads:
        """All since the last call."""
        found = Reads()
        found.delay.record(np.array(self._delays_s))
        found.delay.record(np.frombuffer(self._lanes.take_delays()))
        found.first_unsure.record(np.array(self._first_s))
        found.shared_unsure.record(np.array(self._shared_s))
        found.shared_unsure.record(np.frombuffer(self._lanes.take_unsure()))
        found.between.record(np.frombuffer(self._lanes.take_between()))
        del self._delays_s[:], self._first_s[:], self._shared_s[:]
        return found
