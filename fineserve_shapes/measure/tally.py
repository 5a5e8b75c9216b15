"""Tally: all that is measured of a run while it goes on, folded from what workers tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure.certified import Tails
from fineserve_shapes.measure.delivery import Delivery
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.records import Records
from fineserve_shapes.measure.series import Series
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.steady import Window
from fineserve_shapes.measure.streamtally import StreamTally
from fineserve_shapes.measure.totals import Totals, ms


class Follower(Protocol):
    """What else is fed with what a tally is fed with."""

    def plan(self, streams: IntArray, due_s: FloatArray) -> None:
        """Rows of the plan, in time order, are due then."""

    def add(self, measured: Measurements) -> None:
        """What a worker measured."""


class Tally:
    """The figures of each stream and of all together, and the series.

    slo: what makes an answer good, of all streams or by stream. warmup_s: rows due before that time stay out of totals and
    tails (their errors do not); the series has them. allowed_lag_s: see `Delivery`. names: of the streams.
    allowed_lags_s: of each stream of a mix, where they have their own. followers: see `Follower`; none by default.
    """

    def __init__(
        self,
        slo: Slo | Slos | None = None,
        warmup_s: float = 0.0,
        allowed_lag_s: float = 0.0,
        names: Names | None = None,
        allowed_lags_s: Sequence[float] = (),
    ) -> None:
        self.slo = slo or None
        self.warmup_s = warmup_s
        self.names = names or Names()
        self.series = Series(self.slo, self.names)
        self.delivery = Delivery(allowed_lag_s)
        self.tails = Tails()
        self._allowed_lags_s = tuple(allowed_lags_s) or (allowed_lag_s,) * len(self.names.names)
        self._streams: dict[int, StreamTally] = {}
        self.planned_in_warmup = 0
        self.followers: list[Follower] = []
        if self.names.mixed:
            for number in range(len(self.names.names)):
                self.of(number)

    def of(self, stream: int) -> StreamTally:
        """The figures of one stream."""
        found = self._streams.get(stream)
        if found is None:
            slo = self.slo.of(stream) if isinstance(self.slo, Slos) else self.slo
            own = self.names.mixed
            found = self._streams[stream] = StreamTally(
                slo,
                self.warmup_s,
                Tails() if own else self.tails,
                Delivery(self._allowed_lags_s[stream]) if own else self.delivery,
            )
        return found

    @property
    def streams(self) -> dict[str, StreamTally]:
        """The figures of each stream by its name, in the order of their numbers."""
        return {self.names.of(number): self._streams[number] for number in sorted(self._streams)}

    @property
    def total(self) -> Totals:
        """All streams together, as of now."""
        total = Totals()
        for stream in self._streams.values():
            total.merge(stream.totals)
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
        if self.names.mixed:
            for stream in np.unique(streams).tolist():
                self.of(stream).plan(due_s[streams == stream])
        for follower in self.followers:
            follower.plan(streams, due_s)

    def advance(self, now_s: float) -> None:
        """It is that late in the run (see `Delivery.advance`)."""
        for delivery in self._deliveries():
            delivery.advance(now_s)

    def finish(self, end_s: float) -> None:
        """The run is over (see `Delivery.finish`)."""
        for delivery in self._deliveries():
            delivery.finish(end_s)

    def _deliveries(self) -> list[Delivery]:
        return [self.delivery, *(stream.delivery for stream in self._streams.values() if self.names.mixed)]

    def add(self, measured: Measurements) -> None:
        """What a worker measured."""
        for step in self.steps(measured):
            step()

    def steps(self, measured: Measurements) -> list[Callable[[], None]]:
        """The same in steps to be taken one after the other, so that other work can be done in between."""
        return [
            lambda: self.series.add(measured),
            lambda: self._add_sent(measured.sent),
            lambda: self._add_to_totals(measured),
            lambda: self._add_to_tails(measured.records),
            *(partial(follower.add, measured) for follower in self.followers),
        ]

    def _add_sent(self, sent: npt.NDArray[np.void]) -> None:
        self.delivery.sent(sent["sent_s"], sent["due_s"])
        if self.names.mixed:
            for stream in np.unique(sent["stream"]).tolist():
                mine = sent[sent["stream"] == stream]
                self.of(stream).delivery.sent(mine["sent_s"], mine["due_s"])

    def _add_to_totals(self, measured: Measurements) -> None:
        rows = measured.records
        for stream in np.union1d(np.unique(rows["stream"]), list(measured.itl)).astype(int).tolist():
            mine = rows["stream"] == stream
            part = self.of(stream)
            part.add(rows[mine], measured.itl.get(stream))
            if measured.errors:
                part.totals.add_errors(measured.errors_where(mine))

    def _add_to_tails(self, rows: Records) -> None:
        counted = rows[rows["due_s"] >= self.warmup_s]
        self.tails.add(counted)
        if self.names.mixed:
            for stream in np.unique(counted["stream"]).tolist():
                self.of(stream).tails.add(counted[counted["stream"] == stream])

    def table(self) -> dict[str, Any]:
        """Exact figures, in total and by stream, as plain values.

        `{"total": {...}, "streams": {"chat": {...}}}`; each entry has `outcomes` (of requests that were sent), `sent`,
        `short`, `no_finish_reason`, `retried`, `good`, `good_output_tokens` (None without an SLO), `input_tokens`,
        `output_tokens`, and by latency's name the distribution (see `totals.distribution`).
        """
        return {
            "total": _entry(self.total, self.slo),
            "streams": {name: _entry(stream.totals, stream.slo) for name, stream in self.streams.items()},
        }

    def bounds(self) -> dict[str, Any]:
        """What quantiles are at most (see `certified.bound`), as plain values: some 0.1 s of work.

        `{"total": {"ttft": {"p90_ms": ..., "p99_ms": ..., "p99.9_ms": ...}, ...}, "streams": {"chat": {...}}}`, in
        milliseconds, None where there are too few requests.
        """
        total = _bounds(self.tails)
        names = self.streams if self.names.mixed else {}
        return {"total": total, "streams": {name: _bounds(stream.tails) for name, stream in names.items()}}


def _bounds(tails: Tails) -> dict[str, dict[str, float | None]]:
    return {
        name: {f"{title}_ms": ms(one.value_s) for title, one in by_quantile.items()}
        for name, by_quantile in tails.bounds().items()
    }


def _entry(totals: Totals, slo: Slo | Slos | None) -> dict[str, Any]:
    return {
        "outcomes": dict(totals.outcomes),
        "sent": totals.sent,
        "short": totals.short,
        "no_finish_reason": totals.no_finish_reason,
        "retried": totals.retried,
        "good": None if slo is None else totals.good,
        "good_output_tokens": None if slo is None else totals.good_output_tokens,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        **totals.figures(),
    }
