"""Capacity text: the steps and the answer of a search as lines for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fineserve_shapes.rounding import or_dash

_COLUMNS = (
    ("scale", "scale", 8),
    ("requests/s", "rate_rps", 11),
    ("decision", "decision", 11),
    ("met", "slo_share", 8),
    ("TTFT p50", "median_ttft_ms", 10),
    ("p99", "p99_ttft_ms", 8),
    ("bound", "p99_ttft_bound_ms", 8),
    ("TPOT p50", "median_tpot_ms", 10),
    ("p99", "p99_tpot_ms", 8),
    ("goodput/s", "goodput_rps", 10),
    ("tokens/s", "output_throughput", 9),
    ("requests", "requests", 10),
)
_LIMITS = {
    "server": "the server is the limit",
    "client": "the client is the limit: a load could not be delivered twice (the reason stands with its steps)",
    "range": "what was to be tried is the limit",
}


def step_line(step: Mapping[str, Any], number: int) -> str:
    """What came of a step."""
    rate = "" if step["rate_rps"] is None else f", {or_dash(step['rate_rps'])} requests/s"
    told = f"step {number}: scale {or_dash(step['scale'])}{rate}"
    if step["decision"] is not None:
        return f"{told}: {step['decision']}: {step['why']} ({step['requests']:,} requests)"
    return f"{told}: {step['requests']:,} requests, TTFT p99 {or_dash(step['p99_ttft_ms'])} ms"


def capacity_lines(capacity: Mapping[str, Any]) -> list[str]:
    """The table, by scale, and the answer."""
    lines = ["", "".join(f"{title:>{width}}" for title, _, width in _COLUMNS)]
    for step in sorted(capacity["steps"], key=lambda step: step["scale"]):
        lines.append("".join(f"{_cell(name, step[name]):>{width}}" for _, name, width in _COLUMNS))
    return [*lines, answer_line(capacity)]


def answer_line(capacity: Mapping[str, Any]) -> str:
    """The answer in a sentence."""
    spent = f"{len(capacity['steps'])} steps, {capacity['requests']:,} requests"
    if capacity["slo"] is None:
        return f"sweep: {spent}; without an SLO there is no capacity (--slo)"
    limits = [f"{name.removesuffix('_ms')} {or_dash(limit_ms)} ms" for name, limit_ms in capacity["slo"].items()]
    wanted = f"{capacity['slo_share']:.4g} of the requests meet {', '.join(limits) or 'the SLO of their stream'}"
    limit = _LIMITS.get(capacity["limited_by"], "not finished: this is as far as it is known")
    low, high = capacity["low"], capacity["high"]
    failing = or_dash(high)
    if capacity["limiting_stream"] is not None:
        failing = f"{failing}, at which the stream {capacity['limiting_stream']} fails"
    if low is None and high is None:
        return f"capacity, where {wanted}: not known ({spent}; {limit})"
    if capacity["scale"] is None:
        return f"capacity, where {wanted}: below scale {failing} ({spent}; {limit})"
    found = f"scale {or_dash(capacity['scale'])}"
    if capacity["rate_rps"] is not None:
        found = f"{or_dash(capacity['rate_rps'])} requests/s, {found}"
    if high is None:
        between = f"held up to scale {or_dash(low)}, and nothing higher failed"
    else:
        between = f"between scale {or_dash(low)} and {failing}"
    return f"capacity, where {wanted}: {found}; {between} ({spent}; {limit})"


def _cell(name: str, value: Any) -> str:
    if name == "slo_share" and value is not None:
        return f"{value:.2%}"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else or_dash(value)
