"""`fineserve trace`: what the tools print and write, and one clear line for what they cannot take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fineserve_shapes import cli
from fineserve_shapes.tracetools import convert as converting
from fineserve_shapes.tracetools import progress
from fineserve_shapes.workload.bursts import read_nb
from fineserve_shapes.workload.replay import trace_plan
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

DATASETS = Path(__file__).parents[2] / "datasets"
DATA = Path(__file__).parents[3] / "shared" / "data"
MOE = DATASETS / "replay" / "MoE_gt100B.csv"
FORMATS = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def run(*arguments: object) -> int:
    return cli.main(["trace", *map(str, arguments)])


def inspected(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run("inspect", "--json", *arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def write(path: Path, rows: list[tuple[object, ...]], header: str = "timestamp,input_length,output_length") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


# --- inspect


def test_inspect_counts_what_is_there_and_why_rows_are_dropped(tmp_path: Path, capsys: Any) -> None:
    rows = [(1000 * second, second % 7 + 1, 2 * (second % 7 + 1)) for second in range(600)]
    found = inspected(capsys, write(tmp_path / "x.csv", [*rows, ("", 5, 5), (7, 0, 5)]))
    assert (found["rows"], found["kept"], found["timestamp_unit"]) == (602, 600, "ms")
    assert found["dropped"] == {"missing_timestamp": 1, "below_one": 1, "beyond_max_model_len": 0}
    assert found["span_s"] == 599.0
    assert found["rate_rps"] == pytest.approx(600 / 599)
    assert found["gap_cv"] == pytest.approx(0.0)
    assert found["dispersion"] == {"1": pytest.approx(0), "10": pytest.approx(0), "300": None}
    lengths = np.arange(600) % 7 + 1
    assert found["input_tokens"]["mean"] == pytest.approx(lengths.mean())
    assert found["output_tokens"]["p50"] == 2 * np.sort(lengths)[299]
    assert found["length_correlation"] == pytest.approx(1.0)


def test_the_options_of_the_locustfiles_act_on_what_is_inspected(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(second, 10, 10) for second in range(100)])
    found = inspected(
        capsys,
        path,
        "--timestamp-unit",
        "s",
        "--start-at",
        10,
        "--duration",
        50,
        "--time-scale",
        2,
        "--num-prompts",
        20,
    )
    assert (found["kept"], found["outside_slice"], found["requests"], found["span_s"]) == (50, 50, 20, 9.5)


def test_the_text_names_the_same_figures(capsys: Any) -> None:
    assert run("inspect", MOE) == 0
    text = capsys.readouterr().out
    assert "MoE_gt100B.csv: 5,052 rows, 5,052 kept" in text
    assert "mean rate 2.80" in text or "mean rate 2.8" in text


def test_what_a_run_warns_of_is_said_in_text_and_beside_json(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(second, 10, 10) for second in range(100)])
    assert run("inspect", path) == 0
    (warning,) = open_trace(path).opening.warnings
    assert f"warning: {warning}\n" in capsys.readouterr().out
    assert run("inspect", path, "--json") == 0
    output = capsys.readouterr()
    assert (json.loads(output.out)["warnings"], output.err) == ([warning], f"warning: {warning}\n")


@pytest.mark.parametrize("ending", [".png", ".html"])
def test_a_plot_is_a_picture_or_a_page(tmp_path: Path, capsys: Any, ending: str) -> None:
    picture = tmp_path / f"x{ending}"
    assert run("inspect", MOE, "--plot", picture) == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG" if ending == ".png" else b"<!doctype html>")
    assert ending == ".png" or b"<svg" in content


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.exists(), reason="no published traces beside the checkout")
@pytest.mark.parametrize(
    ("name", "span_s", "rate_rps"),
    [
        ("azure/AzureLLMInferenceTrace_code.csv", 3436, 2.567),
        ("mooncake/conversation_trace_head.jsonl", 987, 3.04),
        ("fineserve/replay/Dense_30to100B.csv", 28797, 0.7307),
    ],
)
def test_published_traces_need_no_flags(capsys: Any, name: str, span_s: float, rate_rps: float) -> None:
    found = inspected(capsys, DATA / name)
    assert found["span_s"] == pytest.approx(span_s, rel=0.001)
    assert found["rate_rps"] == pytest.approx(rate_rps, rel=0.001)
    assert found["warnings"] == []


# --- convert


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


# --- split


def test_split_counts_the_values_of_a_column(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(0, 1, 1, "a"), (1000, 3, 5, "b"), (3000, 5, 7, "b"), (9000, 1, 1, "")],
                 "timestamp,input_length,output_length,model")  # fmt: skip
    given = (path, "--by", "model", "--timestamp-unit", "ms")
    assert run("split", *given) == 0
    text = capsys.readouterr().out
    assert re.search(r"^b +2 +2 +50.00 % +1 s +3 s +0.5 +4 +6$", text, re.MULTILINE)
    assert "without a model: 1 row, of which 1 usable" in text
    assert run("split", *given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [value["value"] for value in found["values"]] == ["b", "a", ""]
    assert found["values"][0] == {
        "value": "b", "rows": 2, "usable": 2, "first_s": 1.0, "last_s": 3.0, "input_tokens": 4.0, "output_tokens": 6.0,
    }  # fmt: skip


def test_a_mix_has_a_stream_for_each_value_and_how_the_trace_is_read(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(0, 1, 1, "GPT-4", "text"), (1, 3, 5, "Model B", "text")],
                 "timestamp,input_length,output_length,model,type")  # fmt: skip
    out = tmp_path / "mix.toml"
    assert run("split", path, "--by", "model", "--mix", out, "--timestamp-unit", "s", "--where", "type=text",
               "--max-model-len", "4096") == 0  # fmt: skip
    assert f"wrote {out}" in capsys.readouterr().out
    text = out.read_text()
    assert tomllib.loads(text) == {
        "defaults": {"timestamp_unit": "s", "max_model_len": "4096", "time_origin": "trace"},
        "streams": {
            "gpt-4": {"kind": "replay", "request_trace_csv": str(path), "where": "type=text,model=GPT-4"},
            "model-b": {"kind": "replay", "request_trace_csv": str(path), "where": "type=text,model=Model B"},
        },
    }
    assert text.count("# host = ") == 2
    assert '# model = "Model B"' in text


# --- fit and synth


def test_synth_makes_the_class_s_rate_in_the_published_form(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "day.parquet"
    assert run("synth", "--model-class", "Dense_lt10B", "--duration", 600, "--seed", 3, "--out", out) == 0
    assert "150 requests" not in capsys.readouterr().out
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["input_length", "output_length", "latency", "timestamp", "architecture", "scale"]
    assert set(frame.scale) == {"lt10B"}
    assert frame.timestamp.max() < 600e6
    assert (
        run("synth", "--model-class", "Dense_lt10B", "--duration", 600, "--seed", 3, "--out", tmp_path / "b.csv") == 0
    )
    again = pd.read_csv(tmp_path / "b.csv")
    assert again.timestamp.tolist() == frame.timestamp.tolist()
    assert again.output_length.tolist() == frame.output_length.tolist()


@pytest.mark.parametrize("name", ["Dense_10to30B", "Dense_30to100B", "MoE_gt100B"])
def test_a_day_that_is_synthesised_is_fitted_back(tmp_path: Path, capsys: Any, name: str) -> None:
    """|z| below 4 on log shape and log scale in 99 % of the windows (by chance: 99.99 %)."""
    day = tmp_path / "day.parquet"
    given = ("--model-class", name, "--parametric-jitter-ratio", 0, "--duration", 86_400)
    assert run("synth", *given, "--out", day) == 0
    capsys.readouterr()
    assert run("fit", day, "--out", tmp_path / "fit", "--name", name, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["goodness"]["gamma_fitted_to"] == "requests"
    assert report["misfit"] is None
    fitted = pd.read_csv(tmp_path / "fit" / "gamma" / f"{name}_gamma_5min.csv")
    true = pd.read_csv(DATASETS / "Parametric" / "gamma" / f"{name}_gamma_5min.csv")
    assert len(fitted) == 288
    # median standard errors stand for those of each window, which differ little
    for column, error in (("gamma_shape", "median_se_log_shape"), ("gamma_scale", "median_se_log_scale")):
        z = np.log(fitted[column] / true[column]) / report["goodness"][error]
        assert (z.abs() < 5).mean() >= 0.99


def test_what_is_fitted_is_found_by_its_name_and_keeps_rate_and_lengths(tmp_path: Path, capsys: Any) -> None:
    assert run("fit", MOE, "--out", tmp_path / "fit", "--name", "mine") == 0
    out = tmp_path / "s.csv"
    given = ("--parametric-data-root", tmp_path / "fit", "--parametric-jitter-ratio", 0, "--duration", 1800)
    assert run("synth", "--model-class", "mine", *given, "--out", out) == 0
    was, now = inspected(capsys, MOE), inspected(capsys, out)
    assert now["rate_rps"] == pytest.approx(was["rate_rps"], rel=0.06)  # 5,000 requests of CV 1.7: 2.4 %
    for side in ("input_tokens", "output_tokens"):
        assert now[side]["p50"] == pytest.approx(was[side]["p50"], rel=0.1)


def test_bursts_are_found_where_time_stamps_are_equal(tmp_path: Path, capsys: Any) -> None:
    """Bursts of 1 or 3 at exact instants, in microseconds: found, fitted, and the rate kept."""
    rng = np.random.default_rng(2)
    instants = np.rint(1e6 * np.cumsum(rng.gamma(0.5, 0.4, 5000))).astype(int)
    times = np.repeat(instants, rng.choice([1, 3], 5000))
    path = write(tmp_path / "x.csv", [(time, 10, 10) for time in times.tolist()])
    assert run("fit", path, "--out", tmp_path / "fit", "--timestamp-unit", "us", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["goodness"]["gamma_fitted_to"] == "bursts"
    nb = read_nb(tmp_path / "fit" / "nb" / "x_nb.json")
    assert nb.moments()[0] == pytest.approx(2.0, rel=0.02)
    assert report["model"]["rate_rps"] == pytest.approx(report["trace"]["rate_rps"], rel=0.05)
    assert run("fit", path, "--out", tmp_path / "f2", "--timestamp-unit", "us", "--gamma-fitted-to", "requests") == 0


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.exists(), reason="no published traces beside the checkout")
def test_the_real_trace_is_fitted_and_the_misfit_at_short_times_is_told(tmp_path: Path, capsys: Any) -> None:
    """Mean rate and length quantiles agree within 5 %."""
    assert run("fit", DATA / "fineserve" / "replay" / "Dense_30to100B.csv", "--out", tmp_path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert "are no gamma" in report["misfit"]
    trace, model = report["trace"], report["model"]
    assert model["rate_rps"] == pytest.approx(trace["rate_rps"], rel=0.05)
    for side in ("input_tokens", "output_tokens"):
        for quantile in ("p25", "p50", "p75", "p90", "p99"):
            assert model[side][quantile] == pytest.approx(trace[side][quantile], rel=0.05)


# --- the command


@pytest.mark.parametrize(
    ("tool", "flag"), [*((tool, "--seed") for tool in ("inspect", "fit", "synth", "convert")), ("split", "--where")]
)
def test_every_tool_explains_itself(capsys: Any, tool: str, flag: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tool, "--help")
    assert ended.value.code == 0
    assert flag in capsys.readouterr().out


def test_the_tools_need_neither_locust_nor_gevent() -> None:
    script = "import sys, fineserve_shapes.tracetools.command; print({'locust', 'gevent'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_progress_is_on_stderr_for_what_takes_longer(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    assert inspected(capsys, MOE)["rows"] == 5052
    run("inspect", "--json", MOE)
    output = capsys.readouterr()
    assert "reading MoE_gt100B.csv: 5,052 rows in" in output.err
    json.loads(output.out)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: TOOL"),
        (("inspect",), "required: FILE"),
        (("inspect", "nowhere.csv"), "there is no such file"),
        (("inspect", MOE, "--plot", "x.pdf"), "(--plot)"),
        (("inspect", MOE, "--timestamp-unit", "weeks"), "invalid choice"),
        (("inspect", MOE, "--start-at", "1e9"), "--start-at"),
        (("inspect", MOE, "--time-scale", "0"), "--time-scale"),
        (("inspect", MOE, "--prefix-block-tokens", "16"), "no column hash_ids (--prefix-block-tokens)"),
        (
            ("inspect", MOE, "--input-length-column", "latency"),
            "; say --timestamp-unit s, ms, us or ns: its 5,052 rows span ",
        ),
        (("fit", MOE), "--out"),
        (("fit", MOE, "--out", MOE), "--out"),
        (("fit", MOE, "--out", "x", "--name", "a/b"), "--name"),
        (("fit", MOE, "--out", "x", "--burst-within", "-1"), "--burst-within"),
        (("fit", MOE, "--out", "x", "--parametric-window-seconds", "0"), "--parametric-window-seconds"),
        (("synth", "--out", "x.csv"), "--duration"),
        (("synth", "--out", "x.csv", "--duration", "-1"), "--duration"),
        (("synth", "--out", "x.csv", "--duration", "9", "--model-class", "none"), "--model-class"),
        (("convert", MOE), "--out"),
        (("convert", MOE, "--out", "x.csv", "--keep-fraction", "2"), "--keep-fraction"),
        (("convert", MOE, "--out", "x.csv", "--keep", "modle"), "no column modle to keep (--keep)"),
        (("convert", MOE, "--out", "x.csv", "--keep", "latency"), "is written by every conversion"),
        (("inspect", MOE, "--where", "scale"), "--where takes COLUMN=VALUE"),
        (("inspect", MOE, "--where", "scal=x"), "did you mean scale?"),
        (("inspect", MOE, "--time-origin", "x"), "invalid choice"),
        (("split", MOE), "--by"),
        (("split", MOE, "--by", "latncy"), "did you mean latency?"),
        (("split", MOE, "--by", "scale", "--mix", "nowhere/x.toml"), "(--mix)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.err.startswith("fineserve: error: ")


@pytest.mark.parametrize("tool", [("inspect",), ("fit", "--out", "fit"), ("convert", "--out", "out.csv")])
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0\1\2\xff", b"timestamp,input_length,output_length\n", b"a,b\n1,2\n",
        b"timestamp,input_length,output_length\n1,x,3\n", b"timestamp,input_length,output_length\ninf,1,3\n",
        b"timestamp,input_length,output_length\n1e300,1,3\n-1e300,1,3\n",
        b"timestamp,input_length,output_length\n9e18,1,3\n-9e18,1,3\n",
        b"timestamp,input_length,output_length,hash_ids\n1,2,3,[x]\n", b"\xef\xbb\xbftimestamp\r\n1\r\n",
    ],
)  # fmt: skip
def test_no_file_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tool: tuple[str, ...], content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_bytes(content)
    code = run(tool[0], "x.csv", "--timestamp-unit", "s", *tool[1:])
    assert code in (0, 2)
    assert code == 0 or capsys.readouterr().err.startswith("fineserve: error: ")
