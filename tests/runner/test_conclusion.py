"""What a run leaves behind: one summary of all that is known, and files that say where they could not be written."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fineserve_shapes import __version__
from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases.messages import Warmed
from fineserve_shapes.measure.thresholds import Threshold
from fineserve_shapes.runner.conclusion import (
    About,
    checked,
    print_summary,
    summary_of,
    table_files,
    write_summary,
    write_tables,
)
from fineserve_shapes.values import Values
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.plan import Plan

ABOUT = About("replay", "http://h", simulator=False)
VALUES = Values(Namespace(backend="openai", seed="3"))
FACTS = {"model": "m", "prompt_form": "chat", "token_times": "received", "tls_verified": True, "inexact": None}


@pytest.fixture
def plan() -> Plan:
    ones = np.ones(4, dtype=np.int64)
    block = Block(np.arange(4), 0.1 * np.arange(4), 20 * ones, 5 * ones, 0 * ones)
    return Plan(lambda: [block], identity={"rows": 4}, sized=True)


@pytest.fixture
def run(plan: Plan) -> Iterator[Run]:
    run = Run(plan, plan.requests, Settings(run_time_s=9.0, warmup_requests=2), local=True)
    run.facts["w1"] = dict(FACTS)
    yield run
    run._reading.close()


def test_the_summary_says_what_was_asked_for_and_what_workers_found(run: Run, plan: Plan):
    run.warm["w1"] = Warmed(run.id, 2, 2, None)
    summary = summary_of(run, plan, VALUES, ABOUT)
    expected = {
        "run": run.id, "mode": "replay", "backend": "openai", "host": "http://h", "simulator": False, "model": "m",
        "prompt_form": "chat", "token_times": "received", "tls_verified": True, "inexact_prompts": None, "seed": 3,
        "version": __version__, "error": None, "request_log": None,
        "warmup": {"requests": 2, "ok": 2, "seconds": 0.0, "planned": 0},
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == expected
    assert (summary["plan"]["requests"], summary["plan"]["run_time_s"]) == (4, 9.0)
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ({"token_times": "read"}, "token_times", "mixed"),
        ({"tls_verified": False}, "tls_verified", False),
        ({}, "model", "m"),
    ],
)
def test_workers_that_differ_are_not_summed_up_by_one_of_them(
    run: Run, plan: Plan, change: dict, name: str, value: object
):
    run.facts["w2"] = FACTS | change
    assert summary_of(run, plan, VALUES, ABOUT)[name] == value


def test_a_run_that_failed_says_why_and_one_without_workers_knows_no_model(run: Run, plan: Plan):
    run.facts.clear()
    run.failure = InputError("cannot reach http://h (--host)")
    summary = summary_of(run, plan, VALUES, ABOUT)
    assert (summary["error"], summary["model"]) == ("cannot reach http://h (--host)", None)


def test_a_summary_is_one_object_or_one_more_line(run: Run, plan: Plan, tmp_path: Path):
    summary = summary_of(run, plan, VALUES, ABOUT)
    for name in ("s.json", "s.jsonl"):
        write_summary(summary, tmp_path / name)
        write_summary(summary, tmp_path / name)
    assert json.loads((tmp_path / "s.json").read_text()) == summary
    assert [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()] == [summary] * 2


def test_a_file_that_cannot_be_written_is_one_line_that_names_the_option(
    run: Run, plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The run has ended by then, and its other files are still to be written."""
    gone = tmp_path / "gone"
    summary = summary_of(run, plan, VALUES, ABOUT)
    write_summary(summary, gone / "s.json")
    write_tables(run, *table_files(str(gone / "t")))
    checked(summary, [], gone / "j.xml")
    assert [record.getMessage().rpartition("(")[2] for record in caplog.records] == [
        "--output-file)",
        "--csv)",
        "--junit)",
    ]
    assert all("No such file or directory" in record.getMessage() for record in caplog.records)


def test_tables_stand_beside_locusts_own_files(run: Run, tmp_path: Path):
    assert table_files(None) == []
    table, history = table_files(str(tmp_path / "out"))
    write_tables(run, table, history)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out_llm.csv", "out_llm_history.csv"]


@pytest.mark.parametrize(("limit", "kept"), [("failed<1", True), ("completed>3", False)])
def test_thresholds_are_held_against_the_summary_and_stand_in_it(
    run: Run, plan: Plan, tmp_path: Path, limit: str, kept: bool
):
    summary = summary_of(run, plan, VALUES, ABOUT)
    assert checked(summary, [Threshold.parse(limit)], tmp_path / "junit.xml") is kept
    assert len(summary["checks"]) == 1
    assert (tmp_path / "junit.xml").read_text().count("<failure") == (not kept)


def test_the_text_is_for_people(run: Run, plan: Plan):
    output = io.StringIO()
    print_summary(summary_of(run, plan, VALUES, ABOUT), output)
    assert "replay" in output.getvalue()
