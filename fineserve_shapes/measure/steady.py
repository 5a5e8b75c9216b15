"""Steady window: a run between the end of its warm-up and its last due time, without the drain after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fineserve_shapes.measure.series import Series

LEAST_S = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """The steady part of a run, seconds of the run. A run whose rows are due within less than a second has none."""

    start_s: float
    end_s: float

    @property
    def span_s(self) -> float | None:
        """How long it is; None where there is none."""
        span_s = self.end_s - self.start_s
        return span_s if span_s >= LEAST_S else None

    def per_s(self, count: float) -> float | None:
        """A count of what was due in the window as a rate."""
        return None if self.span_s is None else count / self.span_s


def throughput(series: Series, window: Window, stream: str | None = None) -> dict[str, Any]:
    """What came within the window, whenever it was due: None where there is no window, or no whole slot in it.

    `start_s`, `end_s`: the window. `request_throughput`: requests that ended `ok`, per second; `input_throughput`,
    `output_throughput`: their tokens; `concurrency`: the mean number in flight. They are taken over the slots of the
    series that lie wholly within the window.

    stream: of that stream alone; None: all together.
    """
    columns = series.as_dict(window.start_s)
    counts = columns["total"] if stream is None else columns["streams"].get(stream)
    start_s, width_s = np.array(columns["start_s"], dtype=float), np.array(columns["width_s"], dtype=float)
    inside = (start_s >= window.start_s) & (start_s + width_s <= window.end_s)
    covered_s = float(width_s[inside].sum())

    def rate(name: str) -> float | None:
        if not covered_s:
            return None
        return 0.0 if counts is None else float(np.sum(np.array(counts[name])[inside])) / covered_s

    mean = (np.zeros(len(width_s)) if counts is None else np.array(counts["in_flight"])) * width_s
    return {
        "start_s": window.start_s,
        "end_s": window.end_s,
        "request_throughput": rate("ok"),
        "input_throughput": rate("input_tokens"),
        "output_throughput": rate("output_tokens"),
        "concurrency": float(mean[inside].sum()) / covered_s if covered_s else None,
    }
