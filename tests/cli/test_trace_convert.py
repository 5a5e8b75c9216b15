"""`fineserve trace convert`: the same trace in another form, in order, with all that came with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toolruns import FORMATS, MOE, inspected, run, write

from fineserve_shapes.tracetools import convert as converting
from fineserve_shapes.workload.replay import trace_plan
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_trace(tmp_path: Path, capsys: Any, ending: str) -> None:
    out = tmp_path / f"out{ending}"
    assert run("convert", MOE, "--out", out) == 0
    was, now = inspected(capsys, MOE), inspected(capsys, out)
    for key in ("requests", "span_s", "gap_cv", "dispersion", "input_tokens", "output_tokens", "timestamp_unit"):
        assert now[key] == was[key]


def test_labels_ids_and_latency_come_along(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [
        {"timestamp": 2, "input_length": 700, "output_length": 3, "hash_ids": [4, 5], "scale": "<10B", "latency": 0.5},
        {"timestamp": 1, "input_length": 600, "output_length": 2, "hash_ids": [], "scale": None, "latency": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for ending in (".csv", ".parquet", ".jsonl"):
        out = tmp_path / f"out{ending}"
        assert run("convert", path, "--out", out, "--timestamp-unit", "s") == 0
        trace = open_trace(out)
        (columns,) = trace.blocks()
        assert columns.time_s.tolist() == [0, 1]
        assert columns.prefix is not None
        assert columns.prefix.rows() == [(), (512, 4, 5)]
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert frame.scale.tolist()[1] == "<10B"
    assert frame.latency.tolist()[1] == 0.5
    assert frame.timestamp.tolist() == [0, 1_000_000]


@pytest.mark.parametrize("ending", FORMATS)
def test_blocks_of_another_size_are_told_in_the_file_or_with_the_flag(tmp_path: Path, capsys: Any, ending: str) -> None:
    path, out = tmp_path / "x.jsonl", tmp_path / f"out{ending}"
    bailian = {"chat_id": 1, "parent_chat_id": -1, "turn": 1, "type": "text"}
    rows = [
        {"timestamp": at, "input_length": 40, "output_length": 3, "hash_ids": [1, 2, round(at)]} | bailian
        for at in (0.0, 61.114)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert inspected(capsys, path)["span_s"] == 61.114
    assert run("convert", path, "--out", out) == 0
    flag = ("--prefix-block-tokens", 16)
    assert (" ".join(map(str, flag)) in capsys.readouterr().out) == (ending != ".parquet")
    found = inspected(capsys, out, *(() if ending == ".parquet" else flag))
    assert (found["prefix_block_tokens"], found["span_s"], found["timestamp_unit"]) == (16, 61.114, "us")


def test_a_conversion_keeps_who_asked_for_what(tmp_path: Path) -> None:
    """The model, the columns of a form that we know, and those that are named."""
    path = tmp_path / "x.csv"
    header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
    path.write_text(f'{header}\n5,s,1,GPT-4,10,20,30,"a, b"\n3,,2,,1,2,3,API\n')
    for ending in FORMATS:
        out = tmp_path / f"out{ending}"
        assert run("convert", path, "--out", out, "--keep", "Elapsed time, Total tokens") == 0
        found = TraceOptions(where=(("Log Type", "a, b"), ("Total tokens", "30"), ("Elapsed time", "1")))
        (columns,) = open_trace(out, found).blocks()
        assert columns.input_tokens.tolist() == [10]
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame.columns.tolist()[6:] == ["Model", "Log Type", "Session ID", "Elapsed time", "Total tokens"]
    assert frame["Session ID"].fillna("-").tolist() == ["-", "s"]


def test_sessions_become_rows_with_model_and_latency(tmp_path: Path, capsys: Any) -> None:
    calls = [
        {"timestamp": f"2026-06-01T00:00:0{at}Z", "duration_ms": 1500.0, "model": model, "result": "Success",
         "tokens": {"prompt": at + 1, "completion": 2, "cached": 1}}
        for at, model in ((4, "Model A"), (1, "Model B"))
    ]  # fmt: skip
    path, out = tmp_path / "shard.jsonl", tmp_path / "out.csv"
    path.write_text(json.dumps({"session_id": "s", "turns": [{"turn_id": "t", "llm_calls": calls}]}) + "\n")
    assert run("convert", path, "--out", out, "--keep", "tokens.cached") == 0
    frame = pd.read_csv(out)
    assert frame.input_length.tolist() == [2, 5]
    assert frame.timestamp.tolist() == [0, 3_000_000]
    assert frame.latency.tolist() == [1.5, 1.5]
    assert frame.model.tolist() == ["Model B", "Model A"]
    assert frame.session_id.tolist() == ["s", "s"]
    assert frame["tokens.cached"].tolist() == [1, 1]
    assert inspected(capsys, out)["timestamp_unit"] == "us"


@pytest.mark.parametrize("ending", FORMATS)
def test_a_converted_part_is_the_part_of_what_is_converted(tmp_path: Path, ending: str) -> None:
    path = write(
        tmp_path / "x.csv",
        [(row, row + 1, 1, "ab"[row % 2]) for row in range(40)],
        "timestamp,input_length,output_length,model",
    )
    out, part = tmp_path / f"all{ending}", tmp_path / f"part{ending}"
    assert run("convert", path, "--out", out, "--timestamp-unit", "s") == 0
    assert run("convert", path, "--out", part, "--timestamp-unit", "s", "--where", "model=b") == 0
    (columns,) = open_trace(out, TraceOptions(where=(("model", "b"),))).blocks()
    (expected,) = open_trace(part).blocks()
    assert columns.time_s.tolist() == expected.time_s.tolist()
    assert columns.input_tokens.tolist() == expected.input_tokens.tolist() == list(range(2, 41, 2))


@pytest.mark.parametrize("run_rows", [7, 50, 10_000])
def test_any_order_is_sorted_stably_in_runs_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_rows: int
) -> None:
    monkeypatch.setattr(converting, "RUN_ROWS", run_rows)
    monkeypatch.setattr(converting, "CHUNK_ROWS", 13)
    monkeypatch.setattr(converting, "SAMPLE_EVERY", 3)
    times = np.random.default_rng(1).integers(0, 40, 200)
    path = write(tmp_path / "x.csv", [(time, row + 1, 1) for row, time in enumerate(times.tolist())])
    assert run("convert", path, "--out", tmp_path / "out.csv", "--timestamp-unit", "s") == 0
    order = np.argsort(times, kind="stable")
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame.input_length.tolist() == (order + 1).tolist()
    assert frame.timestamp.tolist() == (1_000_000 * (times[order] - times.min())).tolist()
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("x.csv", "out.csv")] == []


def test_slices_gaps_and_scaling_are_those_of_the_replay(tmp_path: Path, capsys: Any) -> None:
    given = ("--start-at", 100, "--duration", 600, "--spread-within", 1, "--max-gap", 2, "--time-scale", 3,
             "--keep-fraction", 0.5, "--num-prompts", 300, "--seed", 4)  # fmt: skip
    assert run("convert", MOE, "--out", tmp_path / "out.parquet", *given) == 0
    was, now = inspected(capsys, MOE, *given), inspected(capsys, tmp_path / "out.parquet")
    assert now["requests"] == was["requests"] == 300
    assert now["input_tokens"] == was["input_tokens"]
    assert now["gap_cv"] == pytest.approx(was["gap_cv"], rel=1e-4)


def test_a_converted_file_knows_its_size_and_opens_without_being_read(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert run("convert", MOE, "--out", out) == 0
    trace = open_trace(out, chunk_rows=1000)
    assert trace.size == (5052, pytest.approx(trace.opening.span_s))
    assert trace.opening.complete
    whole = open_trace(MOE)
    assert trace.opening.span_s == pytest.approx(whole.opening.span_s, abs=1e-6)
    assert sum(len(columns) for columns in trace.blocks()) == 5052
    plan = trace_plan(trace, time_scale=2.0)
    assert (plan.requests, plan.span_s) == (5052, pytest.approx(whole.opening.span_s / 2, abs=1e-6))
    assert trace_plan(trace, num_prompts=100).requests == 100
    cut = open_trace(out, TraceOptions(duration_s=60.0), chunk_rows=1000)
    assert not cut.opening.complete
    assert cut.size is None
    assert sum(len(columns) for columns in cut.blocks()) == cut.opening.kept


@pytest.mark.parametrize("out", ["x.csv", "folder", "nowhere/out.csv", "out.txt"])
def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path, capsys: Any, out: str) -> None:
    (tmp_path / "folder").mkdir()
    path = write(tmp_path / "x.csv", [(1, 1, 1)])
    assert run("convert", path, "--out", tmp_path / out, "--timestamp-unit", "s") == 2
    assert "--out" in capsys.readouterr().err
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder", "x.csv"]
