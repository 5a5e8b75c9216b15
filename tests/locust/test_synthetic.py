"""The synthetic locustfiles in real Locust processes: what was planned is sent, alone and on workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import ROOT, cluster, outcomes, run_locust, summary_of

from fineserve_shapes.simulator.process import SimulatorProcess

POISSON, PARAMETRIC = (ROOT / "locustfiles" / name for name in ("poisson.py", "parametric.py"))
SHORT = ("--input-length", "U(10,30)", "--output-length", "4")


def test_poisson_runs_without_arguments_and_ends_by_itself(tmp_path: Path) -> None:
    """Nothing but quicker arrivals and shorter lengths than its own, by the environment."""
    environment = {"LOCUST_REQUEST_RATE": "50", "LOCUST_INPUT_LENGTH": "20", "LOCUST_OUTPUT_LENGTH": "4"}
    finished = run_locust(tmp_path, "--output-file", tmp_path / "s.json", file=POISSON, **environment)
    summary = summary_of(tmp_path / "s.json")
    assert finished.code == 0, finished.output
    assert summary["mode"] == "poisson"
    assert outcomes(summary) == {"ok": 100}
    assert "Poisson arrivals at 50/s" in finished.output
    assert "Traceback" not in finished.output


def test_a_parametric_run_lasts_as_long_as_it_is_told_and_sends_what_is_due_by_then(tmp_path: Path) -> None:
    finished = run_locust(
        tmp_path, "-t", "2s", "--model-class", "Dense_lt10B", "--drain-timeout", 20, *SHORT,
        "--output-file", tmp_path / "s.json", file=PARAMETRIC,
    )  # fmt: skip
    summary = summary_of(tmp_path / "s.json")
    assert finished.code == 0, finished.output
    assert summary["mode"] == "parametric"
    assert summary["plan"]["requests"] == summary["ledger"]["planned"] > 100
    assert outcomes(summary) == {"ok": summary["ledger"]["planned"]}


def test_requests_that_the_model_cannot_hold_are_told_once_with_the_way_out(tmp_path: Path) -> None:
    """And what the server says of each is one kind of error, whatever lengths stand in it."""
    with SimulatorProcess(ttft_ms=1, itl_ms=1, max_model_len=64) as server:
        finished = run_locust(
            tmp_path, "--host", server.url, "--request-rate", 50, "--num-prompts", 20, "--input-length", "U(70,99)",
            "--output-length", 4, "--output-file", tmp_path / "s.json", file=POISSON,
        )  # fmt: skip
    summary = summary_of(tmp_path / "s.json")
    assert finished.output.count("together more than the model's context of 64") == 1, finished.output
    assert "--max-model-len 64 cuts them" in finished.output
    assert [(error["outcome"], error["requests"]) for error in summary["errors"]] == [("http_error", 20)]


def test_workers_share_one_plan_which_is_the_same_as_in_one_process(tmp_path: Path) -> None:
    given = ("--headless", "--request-rate", 60, "--num-prompts", 120, *SHORT, "--output-file")
    with cluster(tmp_path) as locust:
        single = locust.start(*given, tmp_path / "alone.json", file=POISSON)
        master = locust.master("--expect-workers", 2, *given, tmp_path / "shared.json", file=POISSON)
        locust.worker()
        locust.worker()
        finished = locust.wait(master)
        locust.wait(single)
    alone, shared = summary_of(tmp_path / "alone.json"), summary_of(tmp_path / "shared.json")
    assert outcomes(shared) == {"ok": 120}, finished.output
    assert alone["plan"]["fingerprint"] == shared["plan"]["fingerprint"]


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        (POISSON, ("--request-rate", "0"), "--request-rate must be positive, got 0"),
        (POISSON, ("--request-rate", "inf"), "say how many (--num-prompts)"),
        (POISSON, ("--rate-profile", "5@x"), "got '5@x'"),
        (PARAMETRIC, ("--model-class", "Dense_7B"), "the classes there are:"),
        (PARAMETRIC, ("--parametric-data-root", "nowhere"), "no file gamma/"),
        (PARAMETRIC, ("--gamma-params-csv", "nowhere.csv"), "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, file: Path, arguments: tuple[str, ...], message: str
) -> None:
    finished = run_locust(tmp_path, *arguments, file=file)
    assert finished.code == 2
    assert message in finished.output.splitlines()[-1]
    assert "Traceback" not in finished.output
