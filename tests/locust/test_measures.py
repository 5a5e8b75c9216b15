"""What a run over real workers reports, against its own records and against the simulator's ground truth."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet
import pytest
from runs import cluster, outcomes, run_locust, summary_of, truth, write_trace

from fineserve_shapes.measure.histogram import RELATIVE_ERROR
from fineserve_shapes.simulator.process import SimulatorProcess

NEAR = 1.0001 * RELATIVE_ERROR
BOUND_S = 0.002
"""Against ground truth: 1 % plus so much."""


def poisson(count: int, rate_rps: float) -> list[float]:
    return np.cumsum(np.random.default_rng(7).exponential(1 / rate_rps, count)).tolist()


def column(rows: list[dict[str, Any]], later: str, earlier: str) -> np.ndarray:
    return np.array([row[later] - row[earlier] for row in rows])


def gaps(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([np.diff(row["token_times_s"]) for row in rows])


def inverted(values: np.ndarray, q: float) -> float:
    return float(np.quantile(values, q, method="inverted_cdf"))


@pytest.mark.alone
def test_merged_figures_are_those_of_the_records_and_near_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Three workers, 400 requests of which some fail, 20 tokens each."""
    trace = write_trace(tmp_path / "trace.csv", poisson(400, 60.0), output_tokens=20)
    log, out, told = tmp_path / "log.parquet", tmp_path / "out.json", tmp_path / "truth.jsonl"
    with (
        SimulatorProcess(ttft_ms=100, itl_ms=20, fault="http_500=0.1", ground_truth=told) as simulator,
        cluster(tmp_path) as locust,
    ):
        master = locust.master(
            "--headless", "--expect-workers", 3, "--host", simulator.url, "--request-trace-csv", trace,
            "--output-file", out, "--request-log", log, "--log-token-times", "--csv", tmp_path / "stats",
            "--slo", "ttft=110ms",
        )  # fmt: skip
        workers = [locust.worker() for _ in range(3)]
        assert locust.wait(master).code == 1, locust.output(master)  # the failures
        assert [locust.wait(worker).code for worker in workers] == [0, 0, 0]
    assert not list(tmp_path.glob("fineserve-*.jsonl"))  # nothing was left behind
    summary = summary_of(out)
    rows = pyarrow.parquet.read_table(log).to_pylist()
    assert sorted(row["index"] for row in rows) == list(range(400))
    assert len({row["worker"] for row in rows}) == 3
    assert Counter(row["outcome"] for row in rows) == outcomes(summary)
    assert {row["error"] for row in rows if row["outcome"] == "http_error"} == {
        error["error"] for error in summary["errors"]
    }

    ok = [row for row in rows if row["outcome"] == "ok"]
    measured = {
        "ttft": column(ok, "first_token_s", "sent_s"),
        "ttft_from_due": column(ok, "first_token_s", "due_s"),
        "e2e_latency": column(ok, "end_s", "sent_s"),
        "tpot": column(ok, "last_token_s", "first_token_s") / 19,
        "itl": gaps(ok),
    }
    for name, values_s in measured.items():
        figures = summary["streams"]["replay"][name]
        assert figures["count"] == len(values_s)
        assert summary[f"mean_{name}_ms"] == pytest.approx(1e3 * values_s.mean())
        for label, q in (("median", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
            assert summary[f"{label}_{name}_ms"] == pytest.approx(1e3 * inverted(values_s, q), rel=NEAR)
        assert figures["max_ms"] == pytest.approx(1e3 * values_s.max())
    lag_s = column(rows, "sent_s", "due_s")
    assert summary["fidelity"]["lag_p99_ms"] == pytest.approx(1e3 * inverted(lag_s, 0.99), rel=NEAR)
    assert summary["completed"] == len(ok)
    assert summary["total_output_tokens"] == sum(row["output_tokens"] for row in ok) == 20 * len(ok)
    assert summary["goodput"]["good"] == int((measured["ttft"] <= 0.110).sum())
    assert summary["goodput"]["of"] == 400

    with (tmp_path / "stats_llm_history.csv").open(newline="") as file:
        history = [row for row in csv.DictReader(file) if row["stream"] == "total"]
    seconds = np.array([int(row["start_s"]) for row in history])

    def per_second(found: list[dict[str, Any]], name: str) -> list[int]:
        return np.bincount([int(row[name]) for row in found], minlength=len(seconds)).tolist()

    assert [int(row["planned"]) for row in history] == per_second(rows, "due_s")
    assert [int(row["ok"]) for row in history] == per_second(ok, "end_s")
    assert [int(row["itl_count"]) for row in history] == np.bincount(
        np.concatenate([np.floor(row["token_times_s"][1:]).astype(int) for row in ok]), minlength=len(seconds)
    ).tolist()
    assert sum(int(row["sent"]) for row in history) == 400
    assert sum(int(row["output_tokens"]) for row in history) == 20 * len(ok)
    with (tmp_path / "stats_llm.csv").open(newline="") as file:
        table = {(row["stream"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(table["total", "ttft"]["p99_ms"]) == pytest.approx(summary["p99_ttft_ms"], rel=1e-5)

    fidelity = summary["fidelity"]
    assert fidelity["due"] == fidelity["asked"]["requests"] == fidelity["delivered"]["requests"] == 400
    assert fidelity["delivered"]["gap_cv"] == pytest.approx(fidelity["asked"]["gap_cv"], rel=0.1)
    assert fidelity["told_late"] == 0
    assert len(fidelity["workers"]) == 3
    for worker in fidelity["workers"].values():
        assert worker["uncertainty_s"] == 0  # one machine, one clock
        assert worker["loop_delay_p99_ms"] >= worker["loop_delay_p50_ms"] > 0
        assert worker["sent"] > 100

    server = {row["request_id"]: row for row in truth(told)}
    answers = [server[row["request_id"]] for row in ok]
    written = [np.array(row["chunk_written_s"]) for row in answers]
    true = {
        "ttft": np.array([times[0] - row["received_s"] for times, row in zip(written, answers, strict=True)]),
        "tpot": np.array([(times[-1] - times[0]) / 19 for times in written]),
        "itl": np.concatenate([np.diff(times) for times in written]),
    }
    with capsys.disabled():
        for name, values_s in true.items():
            pairs = [(1e3 * inverted(values_s, q), summary[f"{label}_{name}_ms"])
                     for label, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))]  # fmt: skip
            print(f"\n{name}: " + ", ".join(f"{a:.2f} true {b:.2f} measured" for a, b in pairs) + " ms", end="")
            for expected_ms, found_ms in pairs:
                assert abs(found_ms - expected_ms) <= 0.01 * expected_ms + 1e3 * BOUND_S
        print()


def test_a_stopped_run_logs_every_planned_row_once(tmp_path: Path):
    """Of 400 rows over 20 s the run is stopped after some; those in flight are cancelled, the others never sent."""
    trace = write_trace(tmp_path / "trace.csv", (np.arange(400) / 20).tolist(), output_tokens=40)
    log, out = tmp_path / "log.jsonl", tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=20, itl_ms=20) as simulator, cluster(tmp_path) as locust:
        master = locust.master(
            "--headless", "--expect-workers", 2, "--host", simulator.url, "--request-trace-csv", trace,
            "--drain-timeout", 0, "--output-file", out, "--request-log", log,
        )  # fmt: skip
        workers = [locust.worker(), locust.worker()]
        locust.await_output(master, "starts with 2 worker(s)")
        time.sleep(2.5)
        master.send_signal(signal.SIGTERM)
        locust.wait(master)
        for worker in workers:
            locust.wait(worker)
    summary = summary_of(out)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(400))
    assert Counter(row["outcome"] for row in rows) == outcomes(summary)
    assert set(outcomes(summary)) == {"ok", "cancelled", "unsent"}
    assert {row["worker"] is None for row in rows if row["outcome"] == "unsent"} == {True}
    assert summary["fidelity"]["due_unsent"] == 0  # what was never due is no fault
    assert summary["request_log"]["requests"] == 400


def test_a_killed_workers_rows_are_in_the_log_once_and_the_run_is_invalid(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", (np.arange(300) / 50).tolist(), output_tokens=20)
    log, out = tmp_path / "log.csv", tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=20, itl_ms=20) as simulator, cluster(tmp_path) as locust:
        master = locust.master(
            "--headless", "--expect-workers", 2, "--host", simulator.url, "--request-trace-csv", trace,
            "--output-file", out, "--request-log", log, "--fail-if-invalid",
        )  # fmt: skip
        workers = [locust.worker(), locust.worker()]
        locust.await_output(master, "starts with 2 worker(s)")
        time.sleep(2.5)
        workers[0].kill()
        done = locust.wait(master)
    summary = summary_of(out)
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["index"]) for row in rows) == list(range(300))
    assert Counter(row["outcome"] for row in rows) == outcomes(summary)
    unknown = [row for row in rows if row["outcome"] == "unknown"]
    assert 0 < len(unknown) < 150
    assert len({row["worker"] for row in unknown}) == 1
    assert summary["fidelity"]["verdict"] == "invalid"
    assert any("their worker fell silent" in reason for reason in summary["fidelity"]["reasons"])
    assert done.code == 3, done.output


def test_warm_up_requests_come_before_time_0_and_count_nowhere(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", (np.arange(60) / 20).tolist(), input_tokens=33, output_tokens=4)
    log, out, told = tmp_path / "log.jsonl", tmp_path / "out.json", tmp_path / "truth.jsonl"
    with (
        SimulatorProcess(ttft_ms=50, itl_ms=5, ground_truth=told) as simulator,
        cluster(tmp_path) as locust,
    ):
        master = locust.master(
            "--headless", "--expect-workers", 2, "--host", simulator.url, "--request-trace-csv", trace,
            "--output-file", out, "--request-log", log, "--warmup-requests", 7, "--warmup-seconds", 1,
            "--csv", tmp_path / "stats",
        )  # fmt: skip
        workers = [locust.worker(), locust.worker()]
        done = locust.wait(master)
        for worker in workers:
            locust.wait(worker)
    assert done.code == 0, done.output
    summary, received = summary_of(out), truth(told)
    run = summary["run"]
    warm = [row for row in received if "-w" in row["request_id"]]
    planned = [row for row in received if "-w" not in row["request_id"]]
    assert sorted(row["request_id"] for row in warm) == [f"{run}-w{number}" for number in range(7)]
    assert {(row["prompt_tokens"], row["max_tokens"]) for row in warm} == {(33, 4)}
    assert max(max(row["chunk_written_s"]) for row in warm) < min(row["received_s"] for row in planned)
    assert outcomes(summary) == {"ok": 60}
    assert summary["warmup"] == {"requests": 7, "ok": 7, "seconds": 1.0, "planned": 20}
    assert (summary["completed"], summary["fidelity"]["sent"], summary["streams"]["replay"]["itl"]["count"]) == (
        40,
        40,
        120,
    )
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(row["warmup"] for row in rows) == 20
    assert len(rows) == 60
    shown = (tmp_path / "stats_stats.csv").read_text()
    counts = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(shown.splitlines())}
    assert (counts["/v1/completions"], counts["TTFT"]) == (60, 40)


def test_figures_are_a_gate_for_ci(tmp_path: Path):
    """One threshold is kept, one is missed, and so is the SLO: exit code 4, and a case for each in the JUnit file."""
    out, junit = tmp_path / "out.json", tmp_path / "junit.xml"
    trace = write_trace(tmp_path / "trace.csv", (np.arange(60) / 60).tolist())
    with SimulatorProcess(ttft_ms=50, itl_ms=1) as simulator:
        done = run_locust(
            tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "--output-file", out, "--junit", junit,
            "--threshold", "failed<=0", "--threshold", "median_ttft_ms<1", "--slo", "ttft=1ms", "--fail-if-slo-missed",
        )  # fmt: skip
    assert done.code == 4, done.output
    expected = [("failed<=0", True), ("median_ttft_ms<1", False), ("goodput.share>=0.99", False)]
    assert [(check["check"], check["passed"]) for check in summary_of(out)["checks"]] == expected
    cases = ElementTree.parse(junit).getroot()[0]
    assert [(case.get("name"), not len(case)) for case in cases.iter("testcase")] == expected
    assert "kept: failed is 0, <= 0 was asked" in done.output
    assert "MISSED: goodput.share is 0, >= 0.99 was asked" in done.output


def test_locusts_tables_stay_away_unless_they_are_asked_for(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", (np.arange(60) / 20).tolist())
    with SimulatorProcess(ttft_ms=5, itl_ms=1) as simulator, cluster(tmp_path) as locust:
        common = ("--headless", "--host", simulator.url, "--request-trace-csv", trace)
        started = [locust.start(*common), locust.start(*common, "--print-stats")]
        heads = [locust.wait(process).output.count("Type     Name") for process in started]
    assert heads[0] == 2  # the two of the end
    assert heads[1] > 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--slo", "ttft"], "--slo ttft must be a duration above 0 with its unit"),
        (["--max-lag", "5"], "--max-lag must be a duration above 0 with its unit"),
        (["--max-lag-share", "2"], "--max-lag-share must be a share such as 0.05 or 5%"),
        (["--request-log", "log.txt"], "must end in .parquet, .jsonl, .csv (--request-log)"),
        (["--request-log", "no/such/folder.csv"], "(--request-log)"),
        (["--warmup-requests", "-1"], "--warmup-requests must lie between 0 and 100000, got -1"),
        (["--warmup-seconds", "-1"], "--warmup-seconds must not be negative, got -1"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, arguments: list[str], line: str):
    done = run_locust(tmp_path, "-t", "1s", *arguments)
    assert done.code == 2, done.output
    assert "Traceback" not in done.output
    assert line in done.output
