"""Gamma windows: the shape and scale of gaps per stretch of time, as values and as a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.text import clipped

from ..errors import InputError
from .arrivals import MAX_SHAPE, MIN_SHAPE, Segment

# Above this a scale was almost surely meant in another unit, and a run would never get past its first instant.
MAX_RATE_RPS = 1e7


@dataclass(frozen=True, slots=True, eq=False)
class GammaWindows:
    """Windows in time order, each with gamma gaps of its own; a profile that goes through them once.

    Parameters
    ----------
    start_s, end_s : FloatArray, shape (n,)
        Borders in seconds. Windows must not overlap. A hole between two of them is quiet: nothing is due in it.
    shape : FloatArray, shape (n,)
        Shape k of the gaps; their coefficient of variation is 1/sqrt(k).
    scale_s : FloatArray, shape (n,)
        Scale theta in seconds; the mean gap is k * theta.

    Raises
    ------
    InputError
        If a value is out of its range or windows overlap. The message counts windows from 1.
    """

    start_s: FloatArray
    end_s: FloatArray
    shape: FloatArray
    scale_s: FloatArray

    def __post_init__(self) -> None:
        if not len(self.shape):
            raise InputError("gamma windows: there is not one window")
        for number, (start_s, end_s, shape, scale_s) in enumerate(
            zip(self.start_s, self.end_s, self.shape, self.scale_s, strict=True), 1
        ):
            fault = _fault(start_s, end_s, shape, scale_s)
            if fault:
                raise InputError(f"gamma window {number}: {fault}")
        early = np.flatnonzero(self.start_s[1:] < self.end_s[:-1])
        if len(early):
            raise InputError(f"gamma window {early[0] + 2} starts before window {early[0] + 1} ends")

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def duration_s(self) -> FloatArray:
        """Lengths of the windows in seconds, shape (n,)."""
        return self.end_s - self.start_s

    @property
    def rate_rps(self) -> FloatArray:
        """Arrivals per second in each window, 1 / (k * theta), shape (n,)."""
        return 1 / (self.shape * self.scale_s)

    @property
    def span_s(self) -> float:
        """From the first window's start to the last one's end, in seconds."""
        return float(self.end_s[-1] - self.start_s[0])

    @property
    def mean_rate_rps(self) -> float:
        """Expected arrivals over the span, per second."""
        return float(self.rate_rps @ self.duration_s) / self.span_s

    def scaled(self, factor: float) -> GammaWindows:
        """The windows at `factor` times their rate, with the burstiness they have."""
        if not 0 < factor < math.inf:
            raise InputError(f"a rate can be scaled by a positive number only, got {factor} (--rate-scale)")
        return replace(self, scale_s=self.scale_s / factor)

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:  # noqa: ARG002 - nothing is random here
        """The windows and the holes between them, once, from the first window's start."""
        yield from self.laid_out(self.rate_rps, self.shape)

    def laid_out(self, rate_rps: FloatArray, shape: FloatArray) -> Iterator[Segment]:
        """Segments with these windows' borders and the rates and shapes given."""
        previous_s = float(self.start_s[0])
        rows = zip(self.start_s.tolist(), self.end_s.tolist(), rate_rps.tolist(), shape.tolist(), strict=True)
        for start_s, end_s, rate, k in rows:
            if start_s > previous_s:
                yield Segment(start_s - previous_s, 0.0, 0.0, k)
            yield Segment(end_s - start_s, rate, rate, k)
            previous_s = end_s


def _fault(start_s: float, end_s: float, shape: float, scale_s: float) -> str | None:
    """What is wrong with the values of one window, if anything."""
    if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s < end_s):
        return f"it must end after its start, got {start_s} s to {end_s} s"
    if not MIN_SHAPE <= shape <= MAX_SHAPE:
        return f"gamma_shape must lie between {MIN_SHAPE} and {MAX_SHAPE:.0f}, got {shape}"
    if not 0 < scale_s < math.inf:
        return f"gamma_scale must be positive and finite, got {1e3 * scale_s} ms"
    if shape * scale_s * MAX_RATE_RPS < 1:
        return f"a mean gap of {1e3 * shape * scale_s} ms is below what can be sent; gamma_scale is in milliseconds"
    return None


def read_windows(path: str | Path, window_s: float = 300.0) -> GammaWindows:
    """Read a gamma CSV in FineServe's form.

    Parameters
    ----------
    path : str or Path
        A CSV with the columns `gamma_shape` and `gamma_scale` (milliseconds), and with or without `window_start_ms`
        and `window_end_ms`. Other columns are ignored.
    window_s : float
        Length of a window in seconds where the file has no window columns; rows follow each other.

    Returns
    -------
    GammaWindows
        With the first window starting at 0.

    Raises
    ------
    InputError
        If the file cannot be read or a value cannot be used; the message names file, row, column and value. Rows are
        counted as lines of the file, the header being row 1.
    """
    if not 0 < window_s < math.inf:
        raise InputError(f"the window length must be positive, got {window_s} s (--parametric-window-seconds)")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            columns = _columns(path, header)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror} (--gamma-params-csv)") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV text file: {error} (--gamma-params-csv)") from error
    if not rows:
        raise InputError(f"{path}: no row below the header (--gamma-params-csv)")
    values: list[tuple[float, float, float, float]] = []
    first_ms = previous_ms = 0.0
    for number, row in rows:
        shape, scale_ms = (_cell(path, number, row, header, columns[name]) for name in ("gamma_shape", "gamma_scale"))
        start_s, end_s = len(values) * window_s, (len(values) + 1) * window_s
        if "window_start_ms" in columns:
            start_ms = _cell(path, number, row, header, columns["window_start_ms"])
            end_ms = _cell(path, number, row, header, columns["window_end_ms"])
            if values and start_ms < previous_ms:
                raise InputError(
                    f"{path}: row {number}, column window_start_ms: {start_ms} lies before the end of the window "
                    f"above, {previous_ms}; sort the windows and let none overlap"
                )
            # Starts may be times of day or of an epoch: the run starts with the first window.
            first_ms = first_ms if values else start_ms
            start_s, end_s, previous_ms = (start_ms - first_ms) / 1e3, (end_ms - first_ms) / 1e3, end_ms
        fault = _fault(start_s, end_s, shape, scale_ms / 1e3)
        if fault:
            raise InputError(f"{path}: row {number}: {fault}")
        values.append((start_s, end_s, shape, scale_ms / 1e3))
    return GammaWindows(*np.array(values).T.copy())


def _columns(path: str | Path, header: list[str]) -> dict[str, int]:
    """Where the columns that matter stand."""
    known = ("gamma_shape", "gamma_scale", "window_start_ms", "window_end_ms")
    for name in known:
        if header.count(name) > 1:
            raise InputError(f"{path}: row 1: column {name} is there {header.count(name)} times (--gamma-params-csv)")
    found = {name: header.index(name) for name in known if name in header}
    missing = [name for name in known[:2] if name not in found]
    if ("window_start_ms" in found) != ("window_end_ms" in found):
        missing += [name for name in known[2:] if name not in found]
    if missing:
        raise InputError(
            f"{path}: row 1: no column {' or '.join(missing)}; it has {clipped(', '.join(header), 200) or 'nothing'} "
            "(--gamma-params-csv)"
        )
    return found


def _cell(path: str | Path, number: int, row: list[str], header: list[str], column: int) -> float:
    """A finite number from a row."""
    text = row[column].strip() if column < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{path}: row {number}, column {header[column]}: {clipped(repr(text))} is not a finite number"
            " (--gamma-params-csv)"
        )
    return value


def write_windows(windows: GammaWindows, path: str | Path) -> None:
    """Write a gamma CSV in FineServe's form, with window columns, that `read_windows` reads back."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["window_start_ms", "window_end_ms", "gamma_shape", "gamma_scale"])
        columns = (1e3 * windows.start_s, 1e3 * windows.end_s, windows.shape, 1e3 * windows.scale_s)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
