"""Stream tally: what is measured of one stream while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.measure.certified import Tails
from fineserve_shapes.measure.delivery import Delivery
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.records import Records
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.steady import Window
from fineserve_shapes.measure.totals import Totals


@dataclass(slots=True)
class StreamTally:
    """Totals and tails of requests, and the load asked for beside the load delivered.

    slo: what makes an answer good. warmup_s: rows due before that time stay out of totals and tails. tails, delivery: of
    this stream, or those of the whole run where the stream is all of it.
    """

    slo: Slo | None
    warmup_s: float
    tails: Tails
    delivery: Delivery
    totals: Totals = field(default_factory=Totals)
    planned_in_warmup: int = 0

    @property
    def window(self) -> Window:
        """The steady part of the run, as of now: whatever is counted in totals was due in it."""
        return Window(self.warmup_s, max(self.delivery.last_due_s, self.warmup_s))

    def plan(self, due_s: FloatArray) -> None:
        """Rows of the stream, in time order, have been leased for the first time."""
        self.delivery.plan(due_s)
        self.planned_in_warmup += int(np.searchsorted(due_s, self.warmup_s))

    def counted(self, rows: Records) -> Records:
        """Those of the rows that were due after the warm-up."""
        found: Records = rows[rows["due_s"] >= self.warmup_s]
        return found

    def add(self, rows: Records, itl: Histogram | None) -> None:
        """Requests of the stream that ended, and the gaps between their chunks; tails are added apart."""
        self.totals.add(self.counted(rows), itl, self.slo)
