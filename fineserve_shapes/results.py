"""Results: what a run leaves behind, on the console and in files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from fineserve_shapes import __version__
from fineserve_shapes.engine.run import Run
from fineserve_shapes.measure.csvtables import write_history, write_table
from fineserve_shapes.measure.junit import junit_xml
from fineserve_shapes.measure.report import summary_text
from fineserve_shapes.measure.summary import summarise
from fineserve_shapes.measure.thresholds import Threshold
from fineserve_shapes.options import Values
from fineserve_shapes.workload.plan import Plan

logger = logging.getLogger(__name__)


def summary_of(run: Run, plan: Plan, values: Values, about: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a run that has ended.

    about: `mode`, `host` and `simulator`, which the run itself does not know.
    """
    facts = next(iter(run.facts.values()), {})
    token_times = {found.get("token_times") for found in run.facts.values()} or {None}
    settings = run.settings
    known = {
        "run": run.id,
        "mode": about["mode"],
        "backend": values.text("--backend"),
        "host": about["host"],
        "simulator": about["simulator"],
        "model": facts.get("model"),
        "prompt_form": facts.get("prompt_form"),
        "token_times": facts.get("token_times") if len(token_times) == 1 else "mixed",
        "inexact_prompts": facts.get("inexact"),
        "seed": values.count("--seed"),
        "started_at": datetime.fromtimestamp(run.started_at, UTC).isoformat(timespec="milliseconds"),
        "version": __version__,
        "error": None if run.failure is None else str(run.failure),
        "warmup": {
            "requests": settings.warmup_requests,
            "ok": run.warmed,
            "seconds": settings.warmup_s,
            "planned": run.tally.planned_in_warmup,
        },
        "request_log": None if run.log is None else {"path": str(run.log.log.path)},
    }
    fidelity = {
        **run.fidelity(),
        "passed_on": run.book.passed_on,
        "ended_twice": run.book.ignored,
        "malformed_reports": run.malformed,
    }
    described = {**plan.description(), "run_time_s": settings.run_time_s}
    return summarise(run.tally, run.book.ledger, described, known, fidelity)


def write_tables(run: Run, prefix: str) -> None:
    """Our exact figures beside Locust's --csv files."""
    try:
        write_table(Path(f"{prefix}_llm.csv"), run.tally.table())
        write_history(Path(f"{prefix}_llm_history.csv"), run.tally.series.as_dict())
    except OSError as error:
        logger.error("cannot write %s_llm.csv and its history: %s (--csv)", prefix, error.strerror)


def checked(summary: dict[str, Any], thresholds: Sequence[Threshold], junit: Path | None) -> bool:
    """Hold the summary against thresholds, and put what came of it into the summary and into a JUnit file. Whether all
    were kept."""
    checks = [threshold.check(summary) for threshold in thresholds]
    summary["checks"] = [check.as_dict() for check in checks]
    if junit is not None:
        try:
            junit.write_bytes(junit_xml(f"run {summary['run']}", checks, summary["duration"]))
        except OSError as error:
            logger.error("cannot write the checks to %s: %s (--junit)", junit, error.strerror)
    return all(check.passed for check in checks)


def print_summary(summary: dict[str, Any]) -> None:
    """On the console."""
    sys.stdout.write(f"\n{summary_text(summary)}\n")
    sys.stdout.flush()


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """As JSON: one object, or one more line of a file whose name ends in .jsonl."""
    lines = path.suffix == ".jsonl"
    data = orjson.dumps(summary, option=orjson.OPT_APPEND_NEWLINE | (0 if lines else orjson.OPT_INDENT_2))
    try:
        with path.open("ab" if lines else "wb") as file:
            file.write(data)
    except OSError as error:
        logger.error("cannot write the summary to %s: %s (--output-file)", path, error.strerror)
