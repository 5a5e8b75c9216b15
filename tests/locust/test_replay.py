"""The main job, end to end: real Locust processes replay a trace against the simulator."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import REPLAY, ROOT, cluster, outcomes, run_locust, summary_of, truth, write_trace

from fineserve_shapes.simulator.process import SimulatorProcess

PUBLISHED = ROOT.parent / "shared" / "data" / "fineserve" / "replay" / "Dense_30to100B.csv"


def even(count: int, rate_rps: float) -> list[float]:
    return (np.arange(count) / rate_rps).tolist()


def test_every_request_is_sent_once_at_its_time_with_its_lengths(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", even(150, 50.0), input_tokens=33, output_tokens=4)
    log, out = tmp_path / "truth.jsonl", tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=20, itl_ms=5, ground_truth=log) as simulator:
        done = run_locust(tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "--output-file", out)
    assert done.code == 0, done.output
    summary, received = summary_of(out), truth(log)
    assert outcomes(summary) == {"ok": 150}
    run = summary["run"]
    assert sorted(row["request_id"] for row in received) == sorted(f"{run}-{index}" for index in range(150))
    assert {(row["prompt_tokens"], row["max_tokens"], row["output_tokens"]) for row in received} == {(33, 4, 4)}
    times = np.array([row["received_s"] for row in sorted(received, key=lambda r: int(r["request_id"].split("-")[1]))])
    lateness = times - times[0] - np.array(even(150, 50.0))
    assert np.median(np.abs(lateness)) < 0.02  # a loose bound: these machines are busy
    assert summary["plan"]["requests"] == summary["ledger"]["planned"] == 150
    assert summary["tokens"]["input_differs_from_plan"] == 0
    assert summary["token_times"] == ("received" if sys.platform == "linux" else "read")


def test_one_process_and_workers_follow_the_same_plan(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", even(200, 100.0))
    single, distributed = tmp_path / "single.json", tmp_path / "distributed.json"
    log = tmp_path / "truth.jsonl"
    common = ("--headless", "--only-summary", "--request-trace-csv", trace, "--output-file")
    with (
        SimulatorProcess(ttft_ms=20, itl_ms=5) as other,
        SimulatorProcess(ttft_ms=20, itl_ms=5, ground_truth=log) as simulator,
        cluster(tmp_path) as locust,
    ):
        alone = locust.start("--host", other.url, *common, single)
        master = locust.master("--expect-workers", 2, "--host", simulator.url, *common, distributed)
        workers = [locust.worker(), locust.worker()]
        assert locust.wait(alone).code == 0, locust.output(alone)
        assert locust.wait(master).code == 0, locust.output(master)
        assert [locust.wait(worker).code for worker in workers] == [0, 0]
    one, two = summary_of(single), summary_of(distributed)
    assert one["plan"]["fingerprint"] == two["plan"]["fingerprint"]
    assert outcomes(one) == outcomes(two) == {"ok": 200}
    assert len({row["request_id"] for row in truth(log)}) == len(truth(log)) == 200
    assert len(two["fidelity"]["workers"]) == 2
    shown = re.search(r"POST +/v1/completions +(\d+) +0\(0.00%\)", locust.output(master))
    assert shown is not None
    assert shown[1] == "200"  # Locust's own table counts requests, not metrics


def test_a_part_of_a_trace_keeps_its_place_in_it(tmp_path: Path):
    """One of three models, with the times of the whole."""
    trace, log, out = tmp_path / "trace.csv", tmp_path / "truth.jsonl", tmp_path / "out.json"
    rows = [f"{20 * row},{row + 1},2,{'abc'[row % 3]}" for row in range(90)]
    trace.write_text("\n".join(["timestamp,input_length,output_length,model", *rows, ""]))
    with SimulatorProcess(ttft_ms=5, itl_ms=1, ground_truth=log) as simulator:
        done = run_locust(tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "--timestamp-unit", "ms",
                          "--where", "model=c", "--time-origin", "trace", "--output-file", out)  # fmt: skip
    assert done.code == 0, done.output
    plan = summary_of(out)["plan"]
    assert (plan["rows"], plan["kept"], plan["filtered"]) == (90, 30, 60)
    assert plan["span_s"] == 1.78  # its last row is the last of all, its first one the third
    assert sorted(row["prompt_tokens"] for row in truth(log)) == list(range(3, 91, 3))


def test_forked_workers_share_the_plan(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", even(100, 100.0))
    out = tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator:
        done = run_locust(
            tmp_path, "--processes", 2, "--host", simulator.url, "--request-trace-csv", trace, "--output-file", out
        )
    assert done.code == 0, done.output
    assert outcomes(summary_of(out)) == {"ok": 100}
    assert len(summary_of(out)["fidelity"]["workers"]) == 2


def test_a_process_that_sleeps_sends_late_but_once(tmp_path: Path):
    """Three seconds of SIGSTOP: longer than any fence and any silence that the master would bear from a worker."""
    trace = write_trace(tmp_path / "trace.csv", even(120, 20.0))
    log, out = tmp_path / "truth.jsonl", tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=20, itl_ms=5, ground_truth=log) as simulator, cluster(tmp_path) as locust:
        process = locust.start("--headless", "--only-summary", "--host", simulator.url, "--request-trace-csv", trace,
                               "--output-file", out)  # fmt: skip
        locust.await_output(process, "starts with 1 worker")
        time.sleep(2.5)
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert locust.wait(process).code == 0, locust.output(process)
    summary, received = summary_of(out), truth(log)
    assert outcomes(summary) == {"ok": 120}
    assert summary["completed"] == len(received) == len({row["request_id"] for row in received}) == 120
    assert summary["fidelity"]["lag_max_ms"] > 1000  # and the run says so


def test_a_run_time_ends_the_run_and_the_plan_with_it(tmp_path: Path):
    """Only rows due before the end are planned; what is in flight then has the drain's time, and is cancelled after."""
    trace = write_trace(tmp_path / "trace.csv", even(1000, 20.0), output_tokens=1000)
    out = tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=20, itl_ms=20) as simulator:
        done = run_locust(
            tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "-t", "2s", "--drain-timeout", 1,
            "--output-file", out,
        )  # fmt: skip
    summary = summary_of(out)
    assert outcomes(summary) == {"cancelled": 40}
    assert summary["plan"]["requests"] == 40
    assert done.code == 0, done.output  # what we cancel ourselves is no failure of the server
    assert (summary["failed"], summary["errors"]) == (0, [])
    assert "RequestFailure" not in done.output  # nor in Locust's tables


def test_without_a_host_the_simulator_stands_in_and_the_run_says_so(tmp_path: Path):
    out = tmp_path / "out.json"
    done = run_locust(tmp_path, "-t", "1s", "--drain-timeout", 0, "--output-file", out)
    assert "no --host: the simulator at http://127.0.0.1" in done.output
    assert summary_of(out)["simulator"] is True
    assert "ledger: " in done.output


def test_metrics_stand_in_locusts_own_table_and_leave_aggregated_alone(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", even(20, 20.0), output_tokens=10)
    with SimulatorProcess(ttft_ms=100, itl_ms=20) as simulator:
        done = run_locust(tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "--csv", tmp_path / "stats",
                          "--html", tmp_path / "report.html")  # fmt: skip
    assert done.code == 0, done.output
    rows = (tmp_path / "stats_stats.csv").read_text().splitlines()
    counts = {tuple(row.split(",")[:2]): int(row.split(",")[2]) for row in rows[1:]}
    assert counts == {
        ("POST", "/v1/completions"): 20,
        ("METRIC", "TTFT"): 20,
        ("METRIC", "TPOT"): 20,
        ("METRIC", "ITL"): 180,
        ("METRIC", "lag"): 20,
        ("METRIC", "output tokens"): 20,
        ("", "Aggregated"): 20,
    }
    assert "TTFT" in (tmp_path / "report.html").read_text()


def test_failures_have_their_text_and_the_exit_code(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", even(20, 40.0))
    out = tmp_path / "out.jsonl"
    with SimulatorProcess(ttft_ms=20, itl_ms=5, fault="http_500=1") as simulator:
        done = run_locust(tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "--output-file", out)
    assert done.code == 1
    assert outcomes(summary_of(out)) == {"http_error": 20}
    assert "http_error: HTTP 500" in done.output


def test_a_jsonl_summary_grows_by_a_line_a_run(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", even(5, 40.0))
    out = tmp_path / "out.jsonl"
    with SimulatorProcess(ttft_ms=5, itl_ms=5) as simulator:
        for _ in range(2):
            run_locust(tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "--output-file", out)
    assert len(out.read_text().splitlines()) == 2


def test_chats_and_whole_answers_are_the_same_job(tmp_path: Path):
    file = tmp_path / "chat.py"
    file.write_text(REPLAY.read_text().replace("CompletionUser", "ChatUser"))
    trace = write_trace(tmp_path / "trace.csv", even(20, 40.0))
    outs = [tmp_path / "streamed.json", tmp_path / "whole.json"]
    with SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator, cluster(tmp_path) as locust:
        common = ("--headless", "--host", simulator.url, "--request-trace-csv", trace, "--output-file")
        started = [locust.start(*common, outs[0], file=file),
                   locust.start(*common, outs[1], "--disable-stream", file=file)]  # fmt: skip
        assert [locust.wait(process).code for process in started] == [0, 0]
    streamed, whole = map(summary_of, outs)
    assert outcomes(streamed) == outcomes(whole) == {"ok": 20}
    assert streamed["mean_ttft_ms"] > 15
    assert whole["mean_ttft_ms"] is None
    assert streamed["total_output_tokens"] == whole["total_output_tokens"] == 100


def test_the_body_and_the_path_are_the_users_to_say(tmp_path: Path):
    """A whole endpoint pasted, answers that are not streamed, and a length of the user's own, by which none is short."""
    trace, out = write_trace(tmp_path / "trace.csv", even(20, 40.0)), tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=5, itl_ms=1) as simulator:
        done = run_locust(tmp_path, "--host", f"{simulator.url}/v1/completions?team=a", "--request-trace-csv", trace,
                          "--extra-request-body", '{"stream": false, "max_tokens": 3}', "--output-file", out,
                          HTTP_PROXY="http://user:secret@127.0.0.1:9")  # fmt: skip
    assert done.code == 0, done.output
    assert done.output.count("HTTP_PROXY is not used: requests go straight to 127.0.0.1") == 1
    assert "secret" not in done.output
    summary = summary_of(out)
    assert outcomes(summary) == {"ok": 20}
    assert (summary["mean_ttft_ms"], summary["total_output_tokens"], summary["short"]) == (None, 60, 0)
    assert summary["tls_verified"] is None


OWN_BODIES = """
from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.users import CompletionUser

class Replay(ReplayShape):
    pass

class Completions(CompletionUser):
    def open(self, stream):
        self.bodies = [b'{"model": "simulated", "prompt": "own", "max_tokens": %d}' % (n + 1) for n in range(10)]
        return super().open(stream)

    def body(self, request):
        return self.bodies[request.index]
"""


def test_bodies_of_a_locustfiles_own_need_not_know_the_request_before_the_run(tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN_BODIES)
    trace, out = write_trace(tmp_path / "trace.csv", even(10, 40.0)), tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=5, itl_ms=1) as simulator:
        done = run_locust(tmp_path, "--host", simulator.url, "--request-trace-csv", trace, "--model", "other",
                          "--output-file", out, file=tmp_path / "own.py")  # fmt: skip
    assert done.code == 0, done.output
    assert "no request to try the server with: IndexError" in done.output
    assert summary_of(out)["total_output_tokens"] == sum(range(1, 11))


def test_a_key_comes_from_the_environment_and_is_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trace = write_trace(tmp_path / "trace.csv", even(5, 40.0))
    out = tmp_path / "out.json"
    monkeypatch.setenv("SIMULATOR_KEY", "sk-very-secret")
    with SimulatorProcess(ttft_ms=20, itl_ms=5, api_key_env="SIMULATOR_KEY") as simulator, cluster(tmp_path) as locust:
        common = (
            "--headless",
            "--host",
            simulator.url,
            "--request-trace-csv",
            trace,
            "--output-file",
            out,
            "-L",
            "DEBUG",
        )
        without = locust.start(*common)
        with_key = locust.start(*common, environment={"OPENAI_API_KEY": "sk-very-secret"})
        refused, done = locust.wait(without), locust.wait(with_key)
    assert refused.code == 2
    assert "the key is read from OPENAI_API_KEY" in refused.output
    assert done.code == 0, done.output
    assert "sk-very-secret" not in done.output + out.read_text()


def test_any_locust_client_can_be_driven_open_loop(tmp_path: Path):
    """Override one method: here a user that sleeps, of which dozens are in flight at once."""
    file = tmp_path / "own.py"
    file.write_text(
        "import gevent\n"
        "from fineserve_shapes.shapes import ReplayShape\n"
        "from fineserve_shapes.users import ArrivalUser\n"
        "class Replay(ReplayShape): pass\n"
        "class Sleeper(ArrivalUser):\n"
        "    host = 'http://unused.invalid'\n"
        "    def perform(self, request):\n"
        "        gevent.sleep(0.5)\n"
        "        if request.index == 7: raise TimeoutError('no luck')\n"
    )
    trace = write_trace(tmp_path / "trace.csv", even(100, 100.0))
    out = tmp_path / "out.json"
    done = run_locust(tmp_path, "--request-trace-csv", trace, "--output-file", out, file=file)
    summary = summary_of(out)
    assert outcomes(summary) == {"ok": 99, "timeout": 1}, done.output
    assert summary["duration"] < 3.0  # one after the other they would take 50 s


@pytest.mark.realdata
@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published trace is not beside this checkout")
def test_the_published_trace_accounts_for_every_row(tmp_path: Path):
    out = tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=5, itl_ms=1, max_model_len=200_000, kv_cache_tokens=400_000) as simulator:
        done = run_locust(tmp_path, "--host", simulator.url, "--request-trace-csv", PUBLISHED, "--time-scale", 60,
                          "-t", "1s", "--output-file", out)  # fmt: skip
    assert done.code == 0, done.output
    assert "span 8.0 h" in done.output
    plan = summary_of(out)["plan"]
    assert (plan["rows"], plan["kept"], plan["timestamp_unit"]) == (27_466, 27_466 - 6_350 - 73, "us")
    assert plan["dropped"] == {"missing_timestamp": 6_350, "below_one": 73, "beyond_max_model_len": 0}
    assert set(outcomes(summary_of(out))) == {"ok"}
