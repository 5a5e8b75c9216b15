"""Report: a summary as text for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LATENCY_ROWS = (
    ("TTFT", "ttft"),
    ("TTFT from due", "ttft_from_due"),
    ("TPOT", "tpot"),
    ("ITL", "itl"),
    ("E2E", "e2e_latency"),
)
_MAX_ERRORS = 5


def summary_text(summary: Mapping[str, Any]) -> str:
    """The summary of a run in some lines that fit a terminal."""
    plan, ledger, fidelity = summary["plan"], summary["ledger"], summary["fidelity"]
    ends = [
        f"{count:,} {outcome}"
        for outcome, count in ledger.items()
        if outcome != "planned" and (count or outcome == "ok")
    ]
    marks = [f"{summary[mark]:,} {mark}" for mark in ("short", "retried") if summary[mark]]
    lines = [
        f"run {summary['run']}: {summary['mode']} against {summary['host']}, model {summary['model']}",
        (
            f"plan {plan['fingerprint']}: {_count(plan['requests'])} requests over {_number(plan['span_s'])} s,"
            f" {_number(plan['rate_rps'])} requests/s"
        ),
        f"ledger: {ledger['planned']:,} planned = {' + '.join(ends)}" + (f"   ({', '.join(marks)})" if marks else ""),
        *_fidelity_lines(fidelity),
        (
            f"done: {summary['completed']:,} requests in {_number(summary['duration'])} s,"
            f" {_number(summary['request_throughput'])} requests/s,"
            f" {_number(summary['input_throughput'])} input and {_number(summary['output_throughput'])} output tokens/s"
        ),
        *_goodput_lines(summary["goodput"]),
        "",
        f"{'ms':<15}" + "".join(f"{name:>10}" for name in ("mean", "p50", "p90", "p95", "p99", "p99 bound")),
    ]
    for title, name in _LATENCY_ROWS:
        values = [summary[f"{statistic}_{name}_ms"] for statistic in ("mean", "median", "p90", "p95", "p99")]
        values.append(summary.get(f"p99_{name}_bound_ms"))
        if values[0] is not None:
            lines.append(f"{title:<15}" + "".join(f"{_number(value):>10}" for value in values))
    lines += _bound_lines(summary["bounds"])
    lines += [f"{'kept' if one['passed'] else 'MISSED'}: {one['message']}" for one in summary.get("checks", ())]
    for error in summary["errors"][:_MAX_ERRORS]:
        lines.append(f"{error['requests']:,} x {error['outcome']}: {error['error']}")
    if len(summary["errors"]) > _MAX_ERRORS:
        lines.append(f"and {len(summary['errors']) - _MAX_ERRORS} other kinds of errors")
    return "\n".join(lines)


def _fidelity_lines(fidelity: Mapping[str, Any]) -> list[str]:
    """Asked against delivered, and the verdict."""
    lines = [
        (
            f"sent: {_number(fidelity['sent_rate_rps'])} requests/s; lag p50 {_number(fidelity['lag_p50_ms'])} ms,"
            f" p99 {_number(fidelity['lag_p99_ms'])} ms, max {_number(fidelity['lag_max_ms'])} ms"
        )
    ]
    if fidelity["held"]:
        lines.append(
            f"held back by --max-concurrency: {fidelity['held']:,} requests, p50 {_number(fidelity['held_p50_ms'])} ms,"
            f" p99 {_number(fidelity['held_p99_ms'])} ms, max {_number(fidelity['held_max_ms'])} ms"
            " (not in lag; in figures from due)"
        )
    asked, delivered = fidelity["asked"], fidelity["delivered"]
    pairs = [("rate", "requests/s", asked["rate_rps"], delivered["rate_rps"]),
             ("gap CV", "", asked["gap_cv"], delivered["gap_cv"]),
             *((f"dispersion at {width} s", "", value, delivered["dispersion"][width])
               for width, value in asked["dispersion"].items())]  # fmt: skip
    shown = [
        f"{name} {_number(left)} / {_number(right)}{' ' * bool(unit)}{unit}"
        for name, unit, left, right in pairs
        if left is not None
    ]
    if shown:
        lines.append(f"asked / delivered: {', '.join(shown)}")
    if fidelity["verdict"] is not None:
        lines.append(f"fidelity: {fidelity['verdict']}" + "".join(f"; {reason}" for reason in fidelity["reasons"]))
    return lines


def _goodput_lines(goodput: Mapping[str, Any] | None) -> list[str]:
    if goodput is None:
        return []
    limits = ", ".join(f"{name.removesuffix('_ms')} {_number(value)} ms" for name, value in goodput["slo"].items())
    share = "" if goodput["share"] is None else f" ({goodput['share']:.1%})"
    return [
        f"goodput: {_number(goodput['rps'])} requests/s; {goodput['good']:,} of {goodput['of']:,}{share} met {limits}"
    ]


def _bound_lines(bounds: Mapping[str, Any]) -> list[str]:
    """How sure the bounds are, and where requests were not independent."""
    heaps = [title for title, name in _LATENCY_ROWS if bounds.get(name, {}).get("p99", {}).get("method") == "blocks"]
    return [
        f"p99 bound: p99 is at most that, with {bounds['confidence']:.0%} confidence (-: too few requests to tell)"
        + (f"; requests that hang together count as fewer: {', '.join(heaps)}" if heaps else "")
    ]


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    """Three or four significant digits, without an exponent."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
