"""A search for a capacity that is known from the simulator's parameters: steps are runs, and the answer is near."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from runs import ROOT, Cluster, cluster, run_locust, summary_of, truth
from thorough import in_one_process_too

from fineserve_shapes.simulator.process import SimulatorProcess

CAPACITY = ROOT / "locustfiles" / "capacity.py"
STEP_S, AT_ONCE, TOKENS = 0.02, 4, 10
KNOWN_RPS = AT_ONCE / (TOKENS * STEP_S)
"""Each request holds one of so many places for as many steps as it has tokens: beyond that rate a queue grows."""
SERVER = {
    "decode_step_ms": 1e3 * STEP_S, "max_num_seqs": AT_ONCE, "prefill_tokens_per_s": 1e6, "prefill_fixed_ms": 0,
    "decode_step_per_seq_ms": 0, "decode_step_per_1k_context_ms": 0, "jitter": 0, "tail_probability": 0,
    "enable_prompt_tokens_details": True,
}  # fmt: skip
WORKLOAD = ("--workload", "poisson", "--cv", 0, "--request-rate", 15, "--input-length", 40, "--output-length", TOKENS)
LENIENT = (
    "--disable-stream", "--max-lag", "300ms", "--max-rate-error", 0.5, "--max-cv-error", 1, "--max-dispersion-error", 1,
)  # fmt: skip
"""The tests' machine is busy: whether a step is valid is not what is tested here."""
SEARCHED = (*WORKLOAD, *LENIENT, "--slo", "e2e=300ms", "--slo-share", 0.8, "--step-requests", 80, "--settle", 2)
"""5 % beyond the known rate the queue uses up the SLO's 100 ms to spare after 42 requests: while the step settles."""


def started(locust: Cluster, workers: int, *arguments: object):
    common = ("--headless", "--only-summary", *arguments)
    if not workers:
        return locust.start(*common, file=CAPACITY)
    master = locust.master("--expect-workers", workers, *common, file=CAPACITY)
    for _ in range(workers):
        locust.worker()
    return master


@pytest.mark.timeout(300)
@in_one_process_too
def test_the_capacity_of_a_known_server_is_found(tmp_path: Path, workers: int):
    """Evenly spaced requests: below the known rate none waits, beyond it all do. Each step has prompts of its own."""
    out, log, report = (tmp_path / name for name in ("capacity.json", "truth.jsonl", "capacity.html"))
    with SimulatorProcess(ground_truth=log, **SERVER) as server, cluster(tmp_path) as locust:
        files = ("--output-file", out, "--report", report, "--threshold", "capacity.rate_rps>=10")
        process = started(locust, workers, *SEARCHED, "--max-steps", 7, "--host", server.url, *files)
        done = locust.wait(process, 250.0)
    assert done.code == 0, done.output
    summary = summary_of(out)
    capacity = summary["capacity"]
    assert capacity["rate_rps"] == pytest.approx(KNOWN_RPS, rel=0.07)
    assert capacity["low_rps"] <= 1.03 * KNOWN_RPS
    assert capacity["high_rps"] >= 0.97 * KNOWN_RPS
    assert (capacity["limited_by"], capacity["finished"], capacity["workload"]) == ("server", True, "poisson")
    assert (capacity["slo"], capacity["slo_share"]) == (pytest.approx({"e2e_ms": 300.0}), 0.8)
    steps = capacity["steps"]
    assert [step["scale"] for step in steps][:2] == [1.0, 2.0]
    assert [step["decision"] for step in steps][:2] == ["holds", "fails"]
    assert len({step["run"] for step in steps}) == len(steps) <= 7
    assert steps[-1]["run"] == summary["run"]
    assert sum(step["requests"] for step in steps) == capacity["requests"]
    received = [row for row in truth(log) if not row["request_id"].startswith("preflight")]
    numbers = [int(row["request_id"].partition("-")[2]) for row in received]
    assert len(set(numbers)) == len(numbers) <= capacity["requests"]
    assert summary["checks"][0]["passed"]
    assert [path.name for path in tmp_path.glob("capacity*.json")] == ["capacity.json"]
    assert [line.split(":")[0] for line in done.output.splitlines() if line.startswith("step ")] == [
        f"step {number}" for number in range(1, len(steps))
    ]
    assert "the server is the limit" in done.output.splitlines()[-1]


def test_a_sweep_takes_the_rates_that_it_is_told(tmp_path: Path):
    """In order, each to its end, with or without an SLO."""
    out = tmp_path / "runs.jsonl"
    with SimulatorProcess(**SERVER) as server:
        done = run_locust(
            tmp_path, *WORKLOAD, *LENIENT, "--rates", "12,6", "--settle", 1, "--step-time", 3, "--host", server.url,
            "--output-file", out, file=CAPACITY,
        )  # fmt: skip
    assert done.code == 0, done.output
    first, second = (json.loads(line)["capacity"] for line in out.read_text().splitlines())
    assert (len(first["steps"]), first["finished"], second["finished"]) == (1, False, True)
    assert [step["rate_rps"] for step in second["steps"]] == [pytest.approx(6, rel=0.1), pytest.approx(12, rel=0.1)]
    assert [step["decision"] for step in second["steps"]] == ["undecided"] * 2
    assert (second["scale"], second["slo"], second["limited_by"]) == (None, None, None)
    assert "without an SLO there is no capacity" in done.output
    assert re.search(r"a sweep of 2 steps, 0:0[78] in all", done.output)


def test_a_search_that_is_interrupted_says_how_far_it_came(tmp_path: Path):
    out = tmp_path / "capacity.json"
    with SimulatorProcess(**SERVER) as server, cluster(tmp_path) as locust:
        process = started(locust, 0, *SEARCHED, "--host", server.url, "--output-file", out, "--drain-timeout", 2)
        locust.await_output(process, "step 1", 60.0)
        process.send_signal(signal.SIGINT)
        done = locust.wait(process)
    capacity = summary_of(out)["capacity"]
    assert [step["decision"] for step in capacity["steps"]] == ["holds", None]
    assert (capacity["low"], capacity["finished"], capacity["limited_by"]) == (1.0, False, None)
    assert "not finished: this is as far as it is known" in done.output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "say what makes an answer good (--slo ttft=500ms,tpot=50ms)"),
        (("--slo", "ttft=1s", "-t", "10s"), "--step-time takes the place of --run-time"),
        (("--slo", "ttft=1s", "--workload", "replay"), "no trace to replay (--request-trace-csv)"),
    ],
)
def test_what_cannot_be_searched_is_one_line_before_anything_starts(tmp_path: Path, arguments: tuple, line: str):
    done = run_locust(tmp_path, *arguments, file=CAPACITY)
    assert done.code == 2, done.output
    assert line in done.output.splitlines()[-1]


def test_what_burstiness_costs_is_told_by_one_run_of_each_kind(tmp_path: Path):
    """With the same requests and the same mean rate; each has prompts of its own."""
    out, log = tmp_path / "kinds.json", tmp_path / "truth.jsonl"
    with SimulatorProcess(ground_truth=log, **SERVER) as server:
        done = run_locust(
            tmp_path, *WORKLOAD, *LENIENT, "--slo", "e2e=350ms", "--slo-share", 0.8, "--compare-burstiness",
            "--step-requests", 30, "--settle", 1, "--host", server.url, "--output-file", out, file=CAPACITY,
        )  # fmt: skip
    assert done.code == 0, done.output
    runs = summary_of(out)["burstiness"]["runs"]
    assert [run["arrivals"] for run in runs] == ["poisson", "even", "windows", "bursts", "replay"]
    assert len({run["requests"] for run in runs}) == 1
    assert [path.name for path in tmp_path.glob("kinds*.json")] == ["kinds.json"]
    assert runs[0]["taken_rps"] is None
    assert all(run["taken_rps"] is not None for run in runs[1:])
    assert "good requests/s" in done.output.splitlines()[-1]
    numbers = [
        row["request_id"].partition("-")[2] for row in truth(log) if not row["request_id"].startswith("preflight")
    ]
    assert len(set(numbers)) == len(numbers)
