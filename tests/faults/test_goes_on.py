"""What comes after: a second run in the same processes, a server that was started anew."""

from __future__ import annotations

import json
import time
from pathlib import Path

from accounts import account, account_of, scene
from pages import open_page, until
from runs import cluster, write_trace

from fineserve_shapes.simulator.process import SimulatorProcess


def test_runs_in_a_row_are_clean_though_a_worker_was_killed_and_the_stop_button_pressed(tmp_path: Path) -> None:
    log, out = tmp_path / "truth.jsonl", tmp_path / "out.jsonl"
    slow = write_trace(tmp_path / "slow.csv", [0.02 * i for i in range(1500)], output_tokens=100)  # answers of 1 s
    quick = write_trace(tmp_path / "quick.csv", [0.02 * i for i in range(100)])

    def summaries() -> list[dict[str, object]]:
        return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    with SimulatorProcess(ttft_ms=20, itl_ms=10, ground_truth=log) as simulator, cluster(tmp_path) as locust:
        page = open_page(locust, "--host", simulator.url, "--output-file", out, workers=2)
        assert page.swarm(host=simulator.url, request_trace_csv=slow)["success"] is True
        time.sleep(3.0)
        locust.processes[1].kill()
        time.sleep(2.5)
        assert page.post("/stop")["success"] is True
        assert len(summaries()) == 1
        for number in (2, 3):
            assert page.swarm(host=simulator.url, request_trace_csv=quick)["success"] is True
            until(lambda number=number: len(summaries()) == number)
        assert not any("Traceback" in locust.output(process) for process in locust.processes)
    stopped, *clean = summaries()
    ended = account_of(stopped, 1500, log)
    assert set(ended) == {"ok", "unknown", "unsent"}
    assert ended["unknown"] < 80  # half of 50 requests/s, for an answer's length and the fence
    for summary in clean:
        assert account_of(summary, 100, log) == {"ok": 100}
    assert len({str(summary["run"]) for summary in summaries()}) == 3


def test_a_server_that_is_started_anew_is_found_again(tmp_path: Path) -> None:
    """What was in flight is broken off, what came while it was away refused, what comes after is served."""
    later = tmp_path / "later.jsonl"
    with scene(tmp_path, seconds=7, output_tokens=30) as run:
        run.begin(2)
        time.sleep(2.0)
        run.simulator.stop()
        time.sleep(1.5)
        with SimulatorProcess(port=run.simulator.port, ttft_ms=50, itl_ms=10, ground_truth=later):
            done = run.finished()
    ended = account(tmp_path, run.requests, later)
    assert set(ended) <= {"ok", "connect_error", "stream_error"}, done.output
    assert ended["connect_error"] >= 30
    assert 0 < ended["stream_error"] < 60
    assert ended["ok"] > run.requests / 2
    assert len(later.read_text().splitlines()) > 60
    assert done.code == 1
    assert "connection refused" in done.output


def test_refused_requests_go_out_again_only_where_asked_and_are_listed(tmp_path: Path) -> None:
    with scene(tmp_path, seconds=2, fault="http_429=0.3") as run:
        run.begin(2, "--retry-429", 3)
        done = run.finished()
    ended = account(tmp_path, run.requests, sends=4)
    summary = json.loads((tmp_path / "out.json").read_text())
    assert ended["ok"] >= 0.9 * run.requests, done.output
    assert len(summary["retried_requests"]) == summary["retried"] > run.requests * 0.15
