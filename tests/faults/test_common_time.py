"""One clock and one limit for all: workers whose clocks are seconds off, and slots that are shared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from accounts import RATE_RPS, account, scene, workers_of
from runs import REPLAY, summary_of

SKEWED = """
import os
import sys
import time

if skew_s := float(os.environ.get("TEST_SKEW_S", 0)):
    true_s, drift, zero_s = time.perf_counter, float(os.environ["TEST_DRIFT"]), time.perf_counter()
    time.perf_counter = lambda: true_s() + skew_s + drift * (true_s() - zero_s)
    for name in [name for name in sys.modules if name.startswith("fineserve_shapes")]:
        del sys.modules[name]  # who was imported before has the true clock

    from fineserve_shapes.timerfd import TimerFd

    set_s = TimerFd.set  # the kernel's timer knows nothing of all this
    TimerFd.set = lambda self, at_s, every_s=0.0: set_s(self, (at_s - skew_s + drift * zero_s) / (1 + drift), every_s)
    os.environ["FINESERVE_NO_LANES"] = "1"  # nor does the part in C, which asks the kernel

"""


def test_workers_send_on_time_though_their_clocks_are_seconds_off_and_drift(tmp_path: Path) -> None:
    file = tmp_path / "skewed.py"
    file.write_text(SKEWED + REPLAY.read_text())
    with scene(tmp_path, seconds=5) as run:
        run.processes = [
            run.locust.master("--headless", "--expect-workers", 3, "--host", run.simulator.url, "--request-trace-csv",
                              run.trace, "--output-file", tmp_path / "out.json", file=file),
            run.locust.worker(),
            run.locust.worker(environment={"TEST_SKEW_S": "7.5", "TEST_DRIFT": "8e-5"}),
            run.locust.worker(environment={"TEST_SKEW_S": "-3600", "TEST_DRIFT": "-8e-5"}),
        ]  # fmt: skip
        done = run.finished()
    assert account(tmp_path, run.requests) == {"ok": run.requests}, done.output
    workers = workers_of(tmp_path)
    assert np.allclose(sorted(facts["offset_s"] for facts in workers.values()), [-7.5, 0, 3600], atol=0.02)
    uncertain_s = sorted(facts["uncertainty_s"] for facts in workers.values())
    assert uncertain_s[0] == 0  # one clock is the master's
    assert 0 < uncertain_s[1] <= uncertain_s[2] < 0.02
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    late_s = np.array([row["received_s"] - int(row["request_id"].split("-")[1]) / RATE_RPS for row in rows])
    assert np.quantile(late_s, 0.95) - np.quantile(late_s, 0.05) < 0.05
    summary = summary_of(tmp_path / "out.json")
    assert 45 < summary["median_ttft_ms"] < 80
    assert summary["fidelity"]["lag_p50_ms"] < 20


def test_no_more_requests_than_allowed_are_in_flight_over_all_workers(tmp_path: Path) -> None:
    """Two dozen would be: they wait, all of them are sent, and the wait is no lag but counts from due."""
    limit = 7
    with scene(tmp_path, seconds=2, output_tokens=36) as run:  # answers of 0.4 s
        run.begin(3, "--max-concurrency", limit)
        done = run.finished()
    assert account(tmp_path, run.requests) == {"ok": run.requests}, done.output
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    begins = np.array([row["received_s"] for row in rows])
    ends = np.array([row["chunk_written_s"][-1] for row in rows])
    in_flight = [int(((begins <= at_s) & (ends > at_s)).sum()) for at_s in begins]
    assert max(in_flight) == limit
    took_s = ends.max() - begins.min()
    assert took_s < 1.4 * run.requests * 0.4 / limit  # the slots are used
    summary = summary_of(tmp_path / "out.json")
    fidelity = summary["fidelity"]
    assert fidelity["held"] > run.requests / 2
    assert fidelity["held_max_ms"] > 3000
    assert fidelity["lag_p99_ms"] < 500
    assert summary["p99_ttft_from_due_ms"] > 3000
    assert summary["p99_ttft_ms"] < 500
    assert "held back by --max-concurrency" in done.output
