"""Several runs in one test: a shape yields plans, and goes by the summaries that come back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from runs import Cluster, cluster, outcomes, truth, write_trace

from fineserve_shapes.simulator.process import SimulatorProcess

LOCUSTFILE = '''
from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.users import CompletionUser

class Faster(ReplayShape):
    """The same trace, faster each time, until a run was fast enough."""
    def runs(self, values):
        for factor in (1.0, 2.0, 4.0, 8.0):
            summary = yield self.plan(values).faster(factor)
            print("said", factor, summary["ledger"]["ok"], summary["plan"]["rate_rps"])
            if summary["plan"]["rate_rps"] > 150:
                return

class Completions(CompletionUser):
    pass
'''
REQUESTS = 100


def started(locust: Cluster, folder: Path, workers: int, *arguments: object):
    """A master with so many workers, or a single process where there is none."""
    file = folder / "faster.py"
    file.write_text(LOCUSTFILE)
    trace = write_trace(folder / "trace.csv", [0.02 * i for i in range(REQUESTS)])
    common = ("--headless", "--only-summary", "--request-trace-csv", trace, *arguments)
    if not workers:
        return locust.start(*common, file=file)
    master = locust.master("--expect-workers", workers, *common, file=file)
    for _ in range(workers):
        locust.worker()
    return master


@pytest.mark.parametrize("workers", [0, 2])
def test_each_run_has_its_own_ledger_and_the_workers_stay(tmp_path: Path, workers: int):
    out, log = tmp_path / "runs.jsonl", tmp_path / "truth.jsonl"
    with SimulatorProcess(ground_truth=log, ttft_ms=20, itl_ms=5) as server, cluster(tmp_path) as locust:
        files = ("--output-file", out, "--request-log", tmp_path / "log.jsonl")
        done = locust.wait(started(locust, tmp_path, workers, "--host", server.url, *files))
    assert done.code == 0, done.output
    summaries = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(summaries) == 3
    assert [summary["ledger"]["planned"] for summary in summaries] == [REQUESTS] * 3
    assert [outcomes(summary) for summary in summaries] == [{"ok": REQUESTS}] * 3
    assert [round(summary["plan"]["span_s"], 2) for summary in summaries] == [1.98, 0.99, 0.49]
    assert len({summary["run"] for summary in summaries}) == 3
    assert len({summary["plan"]["fingerprint"] for summary in summaries}) == 3
    assert [line.split()[1:3] for line in done.output.splitlines() if line.startswith("said")] == [
        ["1.0", "100"], ["2.0", "100"], ["4.0", "100"],
    ]  # fmt: skip
    received = [row["request_id"] for row in truth(log) if not row["request_id"].startswith("preflight")]
    assert sorted(received) == sorted(f"{summary['run']}-{i}" for summary in summaries for i in range(REQUESTS))
    if workers:
        names = [sorted(summary["fidelity"]["workers"]) for summary in summaries]
        assert names[0] == names[1] == names[2]
        assert len(names[0]) == workers
    rows = [json.loads(line) for path in tmp_path.glob("log*.jsonl") for line in path.read_text().splitlines()]
    assert len({row["request_id"] for row in rows}) == len(rows) == 3 * REQUESTS
    assert [summary["total_output_tokens"] for summary in summaries] == [5 * REQUESTS] * 3


def test_an_interrupt_ends_the_run_and_no_other_follows(tmp_path: Path):
    out = tmp_path / "runs.jsonl"
    with SimulatorProcess(ttft_ms=20, itl_ms=5) as server, cluster(tmp_path) as locust:
        process = started(locust, tmp_path, 0, "--host", server.url, "--output-file", out)
        locust.await_output(process, "said 1.0")
        process.send_signal(signal.SIGINT)
        locust.wait(process)
    summaries = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(summaries) == 2
    assert summaries[1]["ledger"]["ok"] + summaries[1]["ledger"]["unsent"] + summaries[1]["ledger"]["cancelled"] == 100


def test_a_shape_that_fails_between_runs_ends_the_test(tmp_path: Path):
    file = tmp_path / "failing.py"
    file.write_text(LOCUSTFILE.replace('print("said"', 'raise RuntimeError("no more")\n            print("said"'))
    trace = write_trace(tmp_path / "trace.csv", [0.1, 0.2])
    with SimulatorProcess(ttft_ms=20, itl_ms=5) as server, cluster(tmp_path) as locust:
        arguments = ("--headless", "--only-summary", "--request-trace-csv", trace, "--host", server.url)
        done = locust.wait(locust.start(*arguments, file=file))
    assert done.code == 1
    assert "Faster.runs failed" in done.output
    assert "2 planned = 2 ok" in done.output
