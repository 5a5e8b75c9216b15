"""The web UI's side: options in the form, errors beside it, one run after the other in the same process."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from browser import chromium, needs_chromium
from pages import open_page, until
from runs import cluster, outcomes, summary_of, truth, write_trace

from fineserve_shapes.options import PROMPTS, RUN, SERVER, TRACE
from fineserve_shapes.simulator.process import SimulatorProcess
from fineserve_shapes.workload.traces.traceoptions import UNITS


@pytest.mark.parametrize("workers", [0, 2])
def test_one_run_after_the_other_with_a_mistake_in_between(tmp_path: Path, workers: int):
    trace = write_trace(tmp_path / "trace.csv", [0.02 * i for i in range(50)])
    out, log = tmp_path / "out.jsonl", tmp_path / "truth.jsonl"
    with SimulatorProcess(ttft_ms=20, itl_ms=5, ground_truth=log) as simulator, cluster(tmp_path) as locust:
        page = open_page(locust, "--host", simulator.url, "--output-file", out, workers=workers)
        for mistake, message in (
            ({"request_trace_csv": tmp_path / "missing.csv"}, "missing.csv"),
            ({"request_trace_csv": trace, "time_scale": "fast"}, "--time-scale must be a number, got 'fast'"),
            ({"request_trace_csv": trace, "model": "nope"}, "does not answer for model 'nope': HTTP 404"),
            ({"request_trace_csv": trace, "model": "", "host": "http://127.0.0.1:9"}, "connection refused (--host)"),
        ):
            answer = page.swarm(**{"host": simulator.url, "time_scale": "1", "model": ""} | mistake)
            assert answer["success"] is False
            assert message in answer["message"]
        for number in (1, 2):
            good = page.swarm(host=simulator.url, request_trace_csv=trace, time_scale=1, model="")
            assert good["success"] is True, good
            until(lambda number=number: out.exists() and len(out.read_text().splitlines()) == number)
            time.sleep(2.5)  # Locust answers from a cache for two seconds, and its workers report every three
            until(lambda: page.rows().get(("", "Aggregated")) == 50)
            rows = page.rows()
            assert rows[("POST", "/v1/completions")] == rows[("METRIC", "TTFT")] == 50
        assert not any("Traceback" in locust.output(process) for process in locust.processes)
    summaries = [json.loads(line) for line in out.read_text().splitlines()]
    assert [outcomes(summary) for summary in summaries] == [{"ok": 50}, {"ok": 50}]
    assert summaries[0]["run"] != summaries[1]["run"]
    sent = {row["request_id"] for row in truth(log)}
    assert len({request_id for request_id in sent if not request_id.startswith("preflight-")}) == 100


def test_the_stop_button_ends_a_run_and_accounts_for_the_rest(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", [0.05 * i for i in range(1000)])
    out = tmp_path / "out.json"
    with SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator, cluster(tmp_path) as locust:
        page = open_page(locust, "--host", simulator.url, "--output-file", out)
        assert page.swarm(host=simulator.url, request_trace_csv=trace)["success"] is True
        time.sleep(3)
        assert page.post("/stop")["success"] is True
    summary = json.loads(out.read_text())
    assert set(outcomes(summary)) == {"ok", "unsent"}
    assert sum(outcomes(summary).values()) == summary["ledger"]["planned"] == 1000


def test_every_run_keeps_its_files_and_a_second_interrupt_cuts_the_last_one_short(tmp_path: Path):
    """Under a base path, too: the log names the page for Prometheus where it is."""
    trace = write_trace(tmp_path / "trace.csv", [0.05 * i for i in range(20)])
    long = write_trace(tmp_path / "long.csv", [0.05 * i for i in range(100)], output_tokens=5000)
    with SimulatorProcess(ttft_ms=20, itl_ms=20) as simulator, cluster(tmp_path) as locust:
        page = open_page(locust, "--host", simulator.url, "--web-base-path", "/load", "--drain-timeout", 100,
                         "--output-file", tmp_path / "out.json", "--request-log", tmp_path / "log.csv",
                         base="/load/")  # fmt: skip
        process = locust.processes[0]
        assert "Prometheus finds the figures at /load/fineserve/metrics" in locust.output(process)
        page.url += "/load"
        assert page.swarm(request_trace_csv=trace)["success"] is True
        until(lambda: (tmp_path / "out.json").exists())
        assert 'fineserve_ledger_requests{outcome="ok"} 20.0' in page.get("/fineserve/metrics")
        assert page.swarm(request_trace_csv=long)["success"] is True
        time.sleep(3.0)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(1.0)
        done = locust.wait(process, 15.0)
    assert done.code == 0, done.output
    first, second = sorted(map(summary_of, tmp_path.glob("out*.json")), key=lambda summary: summary["started_at"])
    assert (outcomes(first), set(outcomes(second))) == ({"ok": 20}, {"cancelled", "unsent"})
    for summary, name in ((first, ""), (second, f"-{second['run']}")):
        assert summary["run"] == summary_of(tmp_path / f"out{name}.json")["run"]
        rows = (tmp_path / f"log{name}.csv").read_text().splitlines()
        assert len(rows) == summary["ledger"]["planned"] + 1


def form_of(page: str) -> dict[str, dict[str, object]]:
    """The fields that Locust's page shows beside its own, in their order."""
    found = re.search(r"window.templateArgs = (.*)", page)
    assert found is not None
    fields: dict[str, dict[str, object]] = json.loads(found[1])["extra_options"]
    return fields


@pytest.mark.parametrize("picker", [False, True])
def test_the_form_has_what_most_runs_need_in_the_order_in_which_one_thinks(tmp_path: Path, picker: bool):
    """And Locust's fields for users only where classes are picked, since one may pick no shape there."""
    with cluster(tmp_path) as locust:
        shown = open_page(locust, *["--class-picker"][: int(picker)]).get("/")
    assert ("fineserve/form.css" in shown) is not picker
    assert list(form_of(shown)) == [
        "model", "request_trace_csv", "timestamp_unit", "time_scale", "start_at", "duration", "num_prompts", "slo",
        "max_concurrency", "request_log", "report", "output_file",
    ]  # fmt: skip


@needs_chromium
def test_the_form_says_nothing_of_users_and_starts_a_run(tmp_path: Path):
    """A plan has none: neither how many, nor how fast they start, nor a button to change that; on a phone as well."""
    seen = """return [...document.querySelectorAll(arguments[0])].filter(
        (one) => one.checkVisibility({visibilityProperty: true})).map((one) => one.innerText.trim())"""
    trace = write_trace(tmp_path / "trace.csv", [0.05 * i for i in range(1000)])
    with (
        SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator,
        cluster(tmp_path) as locust,
        chromium(tmp_path) as browser,
    ):
        page = open_page(locust, "--host", simulator.url, "--request-trace-csv", trace)
        for width in (390, 1400):
            browser.open(page.url, width=width)
            browser.until("return document.querySelector('input[name=spawnRate]')")
            until(lambda: browser.run(seen, "form label") == ["Host"])
        browser.click("form button[type=submit]")
        until(lambda: browser.run(seen, "header .MuiButton-contained") == ["STOP", "RESET"])
        assert browser.complaints() == []
        until(lambda: page.rows().get(("", "Aggregated"), 0) > 0)


def test_the_whole_form_has_every_option_with_help_and_default_and_what_the_last_run_was_started_with(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", [0.0, 0.01])
    out = tmp_path / "out.jsonl"
    with (
        SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator,
        cluster(tmp_path, OPENAI_API_KEY="sk-very-secret") as locust,
    ):
        page = open_page(locust, "--form", "all", "--output-file", out)
        shown = page.get("/")
        before = form_of(shown)
        assert set(before) == {option.dest for option in (*TRACE, *SERVER, *PROMPTS, *RUN)} - {"form"}
        assert next(iter(before)) == "model"
        assert before["timestamp_unit"]["choices"] == list(UNITS)
        assert before["time_scale"]["help_text"] == "above 1 is faster: 60 replays an hour in a minute (default: 1)"
        assert "sk-very-secret" not in shown
        changed = {"request_trace_csv": str(trace), "time_scale": "2", "rate_limit_retries": "3", "insecure": True}
        answer = page.swarm(host=simulator.url, **changed | {"insecure": "true"})
        assert answer["success"] is True, answer
        until(out.exists)
        after = form_of(page.get("/"))
    assert {name: field["default_value"] for name, field in after.items()} == {
        **{name: field["default_value"] for name, field in before.items()},
        **changed,
    }
