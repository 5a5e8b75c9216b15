"""Tally: all that is measured of a run while it goes on, folded from what workers tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure.certified import Tails
from fineserve_shapes.measure.delivery import Delivery
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.series import Series
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.steady import Window
from fineserve_shapes.measure.totals import Totals


class Follower(Protocol):
    """What else is fed with what a tally is fed with."""

    def plan(self, due_s: FloatArray) -> None:
        """Rows of the plan, in time order, are due then."""

    def add(self, measured: Measurements) -> None:
        """What a worker measured."""


class Tally:
    """Totals by stream, the series, the tails of all streams together, and the load asked for beside the load delivered.

    slo: what makes an answer good. warmup_s: rows due before that time stay out of totals and tails (their errors do not);
    the series has them. followers: see `Follower`; none by default.
    """

    def __init__(self, slo: Slo | None = None, warmup_s: float = 0.0, allowed_lag_s: float = 0.0) -> None:
        self.slo = slo
        self.warmup_s = warmup_s
        self.series = Series(slo)
        self.delivery = Delivery(allowed_lag_s)
        self.tails = Tails()
        self.streams: dict[int, Totals] = {}
        self.planned_in_warmup = 0
        self.followers: list[Follower] = []

    @property
    def total(self) -> Totals:
        """All streams together, as of now."""
        total = Totals()
        for totals in self.streams.values():
            total.merge(totals)
        return total

    @property
    def window(self) -> Window:
        """The steady part of the run, as of now: whatever is counted in totals was due in it."""
        return Window(self.warmup_s, max(self.delivery.last_due_s, self.warmup_s))

    def plan(self, streams: IntArray, due_s: FloatArray) -> None:
        """Rows of the plan, in time order, have been leased for the first time."""
        self.series.plan(streams, due_s)
        self.delivery.plan(due_s)
        self.planned_in_warmup += int(np.searchsorted(due_s, self.warmup_s))
        for follower in self.followers:
            follower.plan(due_s)

    def add(self, measured: Measurements) -> None:
        """What a worker measured."""
        for step in self.steps(measured):
            step()

    def steps(self, measured: Measurements) -> list[Callable[[], None]]:
        """The same in steps to be taken one after the other, so that other work can be done in between."""
        return [
            lambda: self.series.add(measured),
            lambda: self.delivery.sent(measured.sent["sent_s"], measured.sent["due_s"]),
            lambda: self._add_to_totals(measured),
            lambda: self.tails.add(measured.records[measured.records["due_s"] >= self.warmup_s]),
            *(partial(follower.add, measured) for follower in self.followers),
        ]

    def _add_to_totals(self, measured: Measurements) -> None:
        rows = measured.records
        counted = rows["due_s"] >= self.warmup_s
        for stream in np.union1d(np.unique(rows["stream"]), list(measured.itl)).astype(int).tolist():
            mine = rows["stream"] == stream
            totals = self.streams.setdefault(stream, Totals())
            totals.add(rows[mine & counted], measured.itl.get(stream), self.slo)
            if measured.errors:
                totals.add_errors(measured.errors_where(mine))

    def table(self) -> dict[str, Any]:
        """Exact figures, in total and by stream, as plain values.

        `{"total": {...}, "streams": {"0": {...}}}`; each entry has `outcomes` (of requests that were sent), `sent`,
        `short`, `no_finish_reason`, `retried`, `good`, `good_output_tokens` (None without an SLO), `input_tokens`,
        `output_tokens`, and by latency's name the distribution (see `totals.distribution`).
        """
        return {
            "total": self._entry(self.total),
            "streams": {str(stream): self._entry(totals) for stream, totals in sorted(self.streams.items())},
        }

    def _entry(self, totals: Totals) -> dict[str, Any]:
        return {
            "outcomes": dict(totals.outcomes),
            "sent": totals.sent,
            "short": totals.short,
            "no_finish_reason": totals.no_finish_reason,
            "retried": totals.retried,
            "good": None if self.slo is None else totals.good,
            "good_output_tokens": None if self.slo is None else totals.good_output_tokens,
            "input_tokens": totals.input_tokens,
            "output_tokens": totals.output_tokens,
            **totals.figures(),
        }
