"""Units of recorded timestamps, and timestamps written as dates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fineserve_shapes.arrays import BoolArray, FloatArray

PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}

DATE_TIME = "date-time"
DATE_TIMES_PER_SECOND = PER_SECOND["us"]  # what `date_times` returns


@dataclass(frozen=True, slots=True)
class TimestampUnit:
    """What the numbers in the timestamp column mean.

    name: "s", "ms", "us", "ns", or "date-time" where they were written as dates.
    per_second: how many make a second.
    reason: why this unit, for the log.
    certain: the file itself says so, so no flag mends an odd rate.
    whole: the unit is that of a form whose timestamps are whole numbers, so that a fraction speaks against it.
    doubt: what speaks against a unit that was asked for, for a warning.
    """

    name: str
    per_second: float
    reason: str
    certain: bool = False
    whole: bool = False
    doubt: str | None = None


def fractional(ticks: FloatArray) -> BoolArray:
    """Which of some numbers are not whole, beyond what rounding does to a whole one (0.001)."""
    with np.errstate(invalid="ignore"):  # infinity less itself
        off = ticks - np.rint(ticks)
        return np.abs(off, out=off) > 1e-3


def is_date_time(text: str) -> bool:
    """Whether a text is a date with a time, in ISO 8601 or near it (a space for the T, seven fractional digits)."""
    try:
        float(text)
    except ValueError:
        return bool(np.isfinite(date_times(pd.Series([text], dtype=object)))[0])
    return False


def date_times(texts: pd.Series) -> FloatArray:
    """Microseconds since 1970 (UTC where no zone is written); NaN where a text is missing or no date-time.

    A float64 resolves a quarter of a microsecond in our century.
    """
    stamps = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    # pandas picks a resolution by the digits it sees, which differ from chunk to chunk
    values = stamps.dt.tz_localize(None).to_numpy()
    ticks = values.astype(np.int64).astype(np.float64)
    ticks /= {"s": 1e-6, "ms": 1e-3, "us": 1.0, "ns": 1e3}[np.datetime_data(values.dtype)[0]]
    ticks[np.isnat(values)] = np.nan
    return ticks
