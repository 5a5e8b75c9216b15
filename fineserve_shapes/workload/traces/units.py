"""Units: what the numbers in a trace's timestamp column mean, and what speaks against it."""

from __future__ import annotations

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.rounding import rounded
from fineserve_shapes.workload.traces.forms import Form, TraceColumns, form_of
from fineserve_shapes.workload.traces.survey import PLAUSIBLE_RATE_RPS, human_span
from fineserve_shapes.workload.traces.timestamps import (
    DATE_TIME,
    DATE_TIMES_PER_SECOND,
    PER_SECOND,
    TimestampUnit,
    fractional,
    is_date_time,
)
from fineserve_shapes.workload.traces.tracefile import TraceFile, Wanted, listed

SINCE_1970_S = (1e9, 4.1e9)  # 2001 to 2099
SPAN_ROWS = 1_000_000  # that are read to say what a trace would span in each unit
SPAN_CHUNK_ROWS = 262_144


def find_unit(file: TraceFile, columns: TraceColumns, asked: str) -> TimestampUnit:
    """The unit of a trace's timestamps, which is never guessed against what is seen.

    1. What the file says: date-times (they need no unit; to give one is an error), then what was asked for, then a
       unit stored in the file.
    2. The unit of the published form (`FORMS`) that the file's columns, by their own names, make it one of, unless its
       values speak against it. Published timestamps count from the start of their trace, those in microseconds and
       milliseconds as whole numbers. So against every form speak values that would all be dates of this century (in any
       unit, counted from 1970); against milliseconds a fraction, here and in any row that comes later; and against
       microseconds a fraction where the rate does too, since arithmetic may leave a part of a microsecond. Where the
       flag says another unit than such dates have, there is a warning.
    3. Else it cannot be known: InputError, with the span that each unit would give.

    What no single value shows, such as whole seconds in a form of milliseconds, shows in the rate: see `Tally`.
    """
    head = file.head(columns.timestamp)
    if len(head) and isinstance(head[0], str) and is_date_time(head[0]):
        if asked != "auto":
            raise InputError(
                f"{file.path}: column {columns.timestamp} holds date-times, which have no unit"
                f" (leave --timestamp-unit at auto, got {asked})"
            )
        return TimestampUnit(DATE_TIME, DATE_TIMES_PER_SECOND, "they are written as date-times", certain=True)
    if asked != "auto":
        since_1970 = _since_1970(_numbers(head))
        doubt = (
            None
            if since_1970 in (None, asked)
            else f"timestamps are read in {asked} and look like {since_1970} since 1970"
        )
        return TimestampUnit(asked, PER_SECOND[asked], "--timestamp-unit", doubt=doubt)
    stored = file.stored_unit(columns.timestamp)
    if stored is not None:
        return TimestampUnit(stored, PER_SECOND[stored], "stored in the file's metadata", certain=True)
    form = form_of(file, columns)
    if form is None or form.unit is None:
        raise _unknown(file, columns, f" from the columns {listed(file.names)}")
    contrary = _contrary(form, _numbers(head))
    if contrary is not None:
        raise _unknown(file, columns, f": {form.title} is in {form.unit}, but {contrary}")
    return TimestampUnit(form.unit, PER_SECOND[form.unit], form.title, whole=form.unit == "ms")


def _contrary(form: Form, ticks: FloatArray) -> str | None:
    """What in the first values of a column speaks against the form's unit."""
    unit = _since_1970(ticks)
    if unit is not None:
        return f"{ticks[0]:.17g} looks like a time in {unit} since 1970, and the form counts from the trace's start"
    broken = fractional(ticks)
    if form.unit == "s" or not broken.any():
        return None
    contrary = f"{ticks[np.argmax(broken)].item()!r} is no whole number"
    if form.unit == "ms":
        return contrary
    span_s = float(np.ptp(ticks)) / PER_SECOND["us"]
    if not span_s or len(ticks) / span_s < PLAUSIBLE_RATE_RPS[1]:
        return None
    return f"{contrary}, and {rounded(len(ticks) / span_s)} requests a second are hardly what was recorded"


def _since_1970(ticks: FloatArray) -> str | None:
    """The unit in which all of some numbers would be dates of this century, counted from 1970; None where there is none."""
    low, high = SINCE_1970_S
    for unit, per_second in PER_SECOND.items():
        if len(ticks) and low * per_second <= ticks.min() and ticks.max() <= high * per_second:
            return unit
    return None


def _numbers(head: list[object]) -> FloatArray:
    """The finite ones; what is none is refused, with its place, when the rows are read."""
    found = []
    for value in head:
        try:
            found.append(float(value))  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            continue
    ticks = np.array(found, dtype=np.float64)
    return ticks[np.isfinite(ticks)]


def _unknown(file: TraceFile, columns: TraceColumns, why: str) -> InputError:
    return InputError(
        f"{file.path}: the unit of column {columns.timestamp} cannot be told{why};"
        f" say --timestamp-unit s, ms, us or ns{_spans(file, columns.timestamp)}"
    )


def _spans(file: TraceFile, timestamp: str) -> str:
    """What the trace would span in each unit. Raises InputError for a value that is no number."""
    rows, first, last = 0, np.inf, -np.inf
    for chunk in file.chunks(Wanted((timestamp,), (), False), SPAN_CHUNK_ROWS):
        ticks = chunk.numbers[timestamp]
        ticks = ticks[np.isfinite(ticks)]
        rows += chunk.rows
        if len(ticks):
            first, last = min(first, float(ticks.min())), max(last, float(ticks.max()))
        if rows >= SPAN_ROWS:
            break
    if first > last:
        return ""
    which = f"first {rows:,} rows" if rows >= SPAN_ROWS else f"{rows:,} rows"
    spans = (f"{human_span((last - first) / per_second)} in {unit}" for unit, per_second in PER_SECOND.items())
    return f": its {which} span {', '.join(spans)}"
