"""Conclusion: the summary and the tables of a run that has ended, on the console and in files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

import orjson

from fineserve_shapes import __version__
from fineserve_shapes.engine.run import Run
from fineserve_shapes.leases.messages import by_stream
from fineserve_shapes.measure.csvtables import write_history, write_table
from fineserve_shapes.measure.junit import junit_xml
from fineserve_shapes.measure.summary import summarise
from fineserve_shapes.measure.summarytext import summary_text
from fineserve_shapes.measure.thresholds import Threshold
from fineserve_shapes.values import Values
from fineserve_shapes.workload.plan import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class About:
    """What a run itself does not know.

    mode: the shape's. host: of the server, from the option or the user class. simulator: whether that is the one of ours
    which stands in. hosts: of each stream, by its number.
    """

    mode: str
    host: str | None
    simulator: bool
    hosts: tuple[str | None, ...] = ()


def summary_of(run: Run, plan: Plan, values: Values, about: About) -> dict[str, Any]:
    """The summary of a run that has ended."""
    facts = common_facts(run)
    each = [of_stream for found in run.facts.values() for of_stream in by_stream(found).values()]
    token_times = {found.get("token_times") for found in each} or {None}
    settings = run.settings
    known = {
        "run": run.id,
        "mode": about.mode,
        "backend": values.text("--backend"),
        "host": about.host,
        "simulator": about.simulator,
        "model": facts.get("model"),
        "prompt_form": facts.get("prompt_form"),
        "token_times": facts.get("token_times") if len(token_times) == 1 else "mixed",
        "tls_verified": tls_verified(each),
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
    summary = summarise(run.tally, run.book.ledgers, described, known, fidelity, run.fidelity_of_streams())
    if run.names.mixed:
        models = models_of(run)
        summary["streams"] = {
            name: {"host": host, "model": models.get(name), **found}
            for (name, found), host in zip_longest(summary["streams"].items(), about.hosts)
        }
    return summary


def models_of(run: Run) -> dict[str, str | None]:
    """The model of each stream of a mix by its name, once a worker has said it."""
    facts = next(iter(run.facts.values()), {})
    return {name: found.get("model") for name, found in by_stream(facts).items()} if run.names.mixed else {}


def common_facts(run: Run) -> Mapping[str, Any]:
    """What the workers said of server and prompts; of a mix, what its streams have in common."""
    facts = next(iter(run.facts.values()), {})
    return _together(facts["streams"].values()) if "streams" in facts else facts


def _together(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What all streams have in common, and their models in a row."""
    found = list(facts)
    models = list(dict.fromkeys(str(each["model"]) for each in found if each.get("model") is not None))
    forms = {each.get("prompt_form") for each in found}
    inexact = list(dict.fromkeys(each["inexact"] for each in found if each.get("inexact")))
    return {
        "model": ", ".join(models) or None,
        "prompt_form": forms.pop() if len(forms) == 1 else "mixed",
        "token_times": found[0].get("token_times") if found else None,
        "inexact": "; ".join(inexact) or None,
    }


def tls_verified(facts: Iterable[Mapping[str, Any]]) -> bool | None:
    """Whether all workers verified the server's certificate; None where there was none to verify."""
    found = {each.get("tls_verified") for each in facts} - {None}
    return None if not found else False not in found


def table_files(csv_prefix: str | None) -> list[Path]:
    """Where our exact figures go beside Locust's --csv files: the table and its history; nowhere without a prefix."""
    return [Path(f"{csv_prefix}_llm.csv"), Path(f"{csv_prefix}_llm_history.csv")] if csv_prefix else []


def write_tables(run: Run, table: Path, history: Path) -> None:
    """Write the table and its history."""
    try:
        write_table(table, run.tally.table())
        write_history(history, run.tally.series.as_dict())
    except OSError as error:
        logger.error("cannot write %s and %s: %s (--csv)", table, history, error.strerror)


def checked(summary: dict[str, Any], thresholds: Sequence[Threshold], junit: Path | None) -> bool:
    """Hold the summary against thresholds, and put what came of it into the summary and into a JUnit file. Whether all
    were kept."""
    checks = [threshold.check(summary) for threshold in thresholds]
    summary["checks"] = [check.as_dict() for check in checks]
    if junit is not None:
        try:
            junit.write_bytes(
                junit_xml(f"fineserve {summary['mode']}", checks, summary["duration"], run=summary["run"])
            )
        except OSError as error:
            logger.error("cannot write the checks to %s: %s (--junit)", junit, error.strerror)
    return all(check.passed for check in checks)


def print_summary(summary: dict[str, Any], output: TextIO) -> None:
    """As text for people to read."""
    output.write(f"\n{summary_text(summary)}\n")
    output.flush()


def appends(path: Path) -> bool:
    """Whether a summary becomes one more line of a file, rather than a file."""
    return path.suffix == ".jsonl"


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """As JSON: one object, or one more line of a file whose name ends in .jsonl."""
    lines = appends(path)
    data = orjson.dumps(summary, option=orjson.OPT_APPEND_NEWLINE | (0 if lines else orjson.OPT_INDENT_2))
    try:
        with path.open("ab" if lines else "wb") as file:
            file.write(data)
    except OSError as error:
        logger.error("cannot write the summary to %s: %s (--output-file)", path, error.strerror)
