"""Configuration: what a run was asked for, and where runs differ in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fineserve_shapes.htmlreport.cells import number
from fineserve_shapes.htmlreport.source import RunData

Rows = list[tuple[str, list[Any]]]
"""Of a table with a column for each run."""

_ABOUT = (
    "mode",
    "host",
    "simulator",
    "model",
    "backend",
    "prompt_form",
    "token_times",
    "tls_verified",
    "seed",
    "started_at",
    "version",
    "error",
)
_PLAN = ("requests", "span_s", "rate_rps", "run_time_s", "fingerprint")


def configuration(run: RunData) -> dict[str, Any]:
    """By what it is called; what is not known is left out."""
    found = {name.replace("_", " "): run.summary.get(name) for name in _ABOUT if run.summary.get(name) is not None}
    plan = run.summary.get("plan")
    plan = plan if isinstance(plan, dict) else {}
    known = [*_PLAN, *(name for name in plan if name not in _PLAN)]
    for name in known:
        value = plan.get(name)
        if value is not None and not isinstance(value, dict | list):
            found[f"plan: {name.replace('_', ' ')}"] = value
    warmup = run.summary.get("warmup")
    if isinstance(warmup, dict) and (warmup.get("requests") or warmup.get("seconds")):
        found["warm-up"] = f"{warmup.get('requests')} requests, {warmup.get('seconds')} s"
    if (limits := slo_words(run)) is not None:
        found["SLO"] = limits
    return found


def slo_words(run: RunData) -> str | None:
    """What made an answer good; None without an SLO."""
    goodput = run.summary.get("goodput")
    if not isinstance(goodput, dict):
        return None
    limits = (goodput.get("slo") or {}).items()
    return ", ".join(f"{name.removesuffix('_ms')} {number(limit)} ms" for name, limit in limits) or (
        "the SLO of their stream"
    )


def side_by_side(runs: Sequence[RunData], of: Callable[[RunData], Mapping[str, Any]]) -> Rows:
    """Rows in the order in which their names first occur."""
    columns = [of(run) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name) for column in columns]) for name in names]


def parted(rows: Rows) -> tuple[Rows, Rows]:
    """The rows in which runs differ, and those in which they are alike."""
    alike = [row for row in rows if all(value == row[1][0] for value in row[1])]
    return [row for row in rows if row not in alike], alike
