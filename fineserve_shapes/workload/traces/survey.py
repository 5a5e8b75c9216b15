"""TraceSurvey: what a reading of a trace found: rows, what was dropped and why, span, rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.rounding import rounded
from fineserve_shapes.workload.traces.timestamps import TimestampUnit

DROP_REASONS = ("missing_timestamp", "below_one", "beyond_max_model_len")
FORM_REASONS = ("with_images", "unknown_length")  # of the forms that know them, between the first of those and the rest
CLAMP_BITS = {"below_one": np.uint8(1), "beyond_max_model_len": np.uint8(2)}

# No recording of one service lies outside of these; a wrong unit does, by a factor of a thousand or more. The busiest
# published day has 200 requests/s, the longest trace 121 days.
PLAUSIBLE_RATE_RPS = (1e-3, 1e3)
PLAUSIBLE_SPAN_S = 200 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSurvey:
    """Counts of a reading; rows = kept + filtered + outside_slice + the sum of dropped.

    rows: data rows in the file.
    filtered: rows that the selection left out (architecture, scale, where); nothing else is asked of them.
    dropped: reason -> rows; each row has one, the first that holds of: missing_timestamp; with_images and unknown_length,
        which some forms have; below_one; beyond_max_model_len.
    clamped: reason -> kept rows whose lengths were changed; a row may have both.
    outside_slice: rows neither filtered nor dropped, but before or after the slice.
    timestamp_unit, unit_reason: "s", "ms", "us", "ns" or "date-time", and how we know.
    prefix_block_tokens: how many tokens of a prompt stand behind each id of a shared block; None where there are none.
    span_s: trace seconds from time 0 (the start of the slice; without one, the first kept row) to the last kept row.
    rate_rps: kept / span_s, the mean; None where the span is 0.
    warnings: texts for the log.
    complete: False while only the head of a long file has been read.
    """

    name: str
    rows: int
    kept: int
    filtered: int
    outside_slice: int
    dropped: Mapping[str, int]
    clamped: Mapping[str, int]
    timestamp_unit: str
    unit_reason: str
    span_s: float
    rate_rps: float | None
    warnings: tuple[str, ...]
    complete: bool
    prefix_block_tokens: int | None = None

    def counts(self) -> dict[str, Any]:
        """What became of the file's rows, as plain values."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "filtered": self.filtered,
            "outside_slice": self.outside_slice,
            "dropped": dict(self.dropped),
            "clamped": dict(self.clamped),
        }

    def line(self) -> str:
        """One paragraph for the log."""
        counts = f"{self.rows:,} rows" if self.complete else f"the first {self.rows:,} rows of a longer file"
        left_out = {"filtered out": self.filtered, "outside of the slice": self.outside_slice, **self.dropped}
        for title, reasons in (("dropped", left_out), ("clamped", self.clamped)):
            named = [f"{rows:,} {reason}" for reason, rows in reasons.items() if rows]
            if named:
                counts += f", {title} {', '.join(named)}"
        rate = "" if self.rate_rps is None else f", mean rate {rounded(self.rate_rps, 4)}/s"
        blocks = "" if self.prefix_block_tokens is None else f"; shared blocks of {self.prefix_block_tokens} tokens"
        return (
            f"trace {self.name}: {counts}; {self.kept:,} kept, span {human_span(self.span_s)}{rate};"
            f" timestamps: {self.timestamp_unit} ({self.unit_reason}){blocks}"
        )


@dataclass(slots=True)
class RowTally:
    """The counts of a reading under way.

    clean, clean_span_s: rows that the selection and the cleaning left, before the slice. busy_s: the seconds of the trace
    that have such a row.
    opening_tick, earliest: of all rows with a timestamp, selected or not, that of the first one in the file, and of the
    least one with its row; None while there is none.
    """

    rows: int = 0
    filtered: int = 0
    outside_slice: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    clamped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLAMP_BITS, 0))
    clean: int = 0
    clean_span_s: float = 0.0
    busy_s: int = 0
    span_s: float = 0.0
    opening_tick: float | None = None
    earliest: tuple[float, int] | None = None

    def drop(self, reason: str, rows: int) -> None:
        """Count rows that cannot be sent."""
        self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def count_ticks(self, ticks: FloatArray, first_row: int) -> None:
        """Take the timestamps of all rows of a chunk, NaN where there is none."""
        told = np.flatnonzero(np.isfinite(ticks))
        if not len(told):
            return
        if self.opening_tick is None:
            self.opening_tick = float(ticks[told[0]])
        least = int(told[np.argmin(ticks[told])])
        if self.earliest is None or ticks[least] < self.earliest[0]:
            self.earliest = float(ticks[least]), first_row + least

    def count_times(self, time_s: FloatArray) -> None:
        """Take the times of some clean rows, ascending over all calls, in seconds from the first of all."""
        seconds = np.floor(time_s)
        new = np.count_nonzero(seconds[1:] != seconds[:-1])
        self.busy_s += int(new) + int(not self.busy_s or seconds[0] != np.floor(self.clean_span_s))
        self.clean_span_s = float(time_s[-1])

    def count_slice(self, clamped: npt.NDArray[np.uint8], rows: int) -> None:
        """Take the rows of a slice, with what was done to their lengths, out of so many."""
        if clamped.any():
            for reason, bit in CLAMP_BITS.items():
                self.clamped[reason] += int(np.count_nonzero(clamped & bit))
        self.kept += len(clamped)
        self.outside_slice += rows - len(clamped)

    @property
    def early_row(self) -> int | None:
        """The row with the least timestamp of all, where it is less than that of the file's first row; else None."""
        if self.earliest is None or self.opening_tick is None or self.earliest[0] >= self.opening_tick:
            return None
        return self.earliest[1]

    def survey(self, name: str, unit: TimestampUnit, complete: bool, block_tokens: int | None = None) -> TraceSurvey:
        """The counts so far, as a value."""
        return TraceSurvey(
            name=name,
            rows=self.rows,
            kept=self.kept,
            filtered=self.filtered,
            outside_slice=self.outside_slice,
            dropped=dict(self.dropped),
            clamped=dict(self.clamped),
            timestamp_unit=unit.name,
            unit_reason=unit.reason,
            span_s=self.span_s,
            rate_rps=self.kept / self.span_s if self.span_s > 0 else None,
            warnings=self._warnings(unit),
            complete=complete,
            prefix_block_tokens=block_tokens,
        )

    def _warnings(self, unit: TimestampUnit) -> tuple[str, ...]:
        """What no server saw: a rate or a span beyond the plausible, over the whole trace or, where long pauses hide
        it, over the seconds that have requests. Of all clean rows: a slice may be as sparse as it likes, and so may a
        selection."""
        if unit.doubt is not None:
            return (f"{unit.doubt}: check --timestamp-unit",)
        if unit.certain or self.clean < 2 or self.clean_span_s <= 0:
            return ()
        rate_rps, busy_rps = self.clean / self.clean_span_s, self.clean / self.busy_s
        low, high = PLAUSIBLE_RATE_RPS
        if self.filtered:
            low = 0.0
        if low <= rate_rps < high and busy_rps < high and self.clean_span_s <= PLAUSIBLE_SPAN_S:
            return ()
        busy = f" ({busy_rps:,.0f} in each second that has any)" if busy_rps >= high > rate_rps else ""
        warning = (
            f"read in {unit.name}, the trace spans {human_span(self.clean_span_s)} at a mean rate of {rounded(rate_rps)}/s"
            f"{busy}, which is hardly what was recorded: check the unit of its timestamps"
            " (--timestamp-unit s, ms, us or ns)"
        )
        return (warning,)


def human_span(seconds: float) -> str:
    """A span with the unit that suits it.

    >>> [human_span(seconds) for seconds in (28797.15, 90.0, 1.5, 86400.0 * 333)]
    ['8.0 h', '1.5 min', '1.5 s', '333.0 days']
    """
    for name, length_s in (("days", 2 * 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length_s:
            return f"{seconds / min(length_s, 86_400.0):.1f} {name}"
    return f"{rounded(seconds)} s"
