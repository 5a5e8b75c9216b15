"""Burstiness text: runs that differ in their arrivals alone, side by side, as lines for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fineserve_shapes.rounding import or_dash

_COLUMNS = (
    ("arrivals", "arrivals", 10),
    ("fidelity", "verdict", 10),
    ("gap CV", "gap_cv", 8),
    ("dispersion", "dispersion", 11),
    ("TTFT p50", "median_ttft_ms", 10),
    ("p99", "p99_ttft_ms", 8),
    ("bound", "p99_ttft_bound_ms", 8),
    ("TPOT p50", "median_tpot_ms", 10),
    ("p99", "p99_tpot_ms", 8),
    ("met", "good_share", 8),
    ("goodput/s", "goodput_rps", 10),
)


def burstiness_lines(burstiness: Mapping[str, Any]) -> list[str]:
    """A row for each kind of arrivals, then what each takes of the first one's goodput."""
    runs = burstiness["runs"]
    lines = ["", "".join(f"{title:>{width}}" for title, _, width in _COLUMNS)]
    lines += ["".join(f"{_cell(name, run[name]):>{width}}" for _, name, width in _COLUMNS) for run in runs]
    for run in runs[1:]:
        if run["taken_rps"] is not None:
            lines.append(_taken_line(run, runs[0]["arrivals"]))
    return lines


def _taken_line(run: Mapping[str, Any], first: str) -> str:
    taken, low, high = run["taken_rps"], run["taken_low_rps"], run["taken_high_rps"]
    more = "fewer" if taken >= 0 else "more"
    sure = ""
    if low is not None and high is not None:
        bounds = (low, high) if taken >= 0 else (-high, -low)
        sure = f" (between {or_dash(bounds[0])} and {or_dash(bounds[1])}, 95% confidence)"
    return (
        f"{run['arrivals']}: {or_dash(abs(taken))} good requests/s {more} than {first}, of {or_dash(run['rate_rps'])}"
        f" requests/s{sure}"
    )


def _cell(name: str, value: Any) -> str:
    if name == "good_share" and value is not None:
        return f"{value:.2%}"
    return value if isinstance(value, str) else or_dash(value)
