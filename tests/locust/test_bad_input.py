"""Bad input: one clear line, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest
from pages import until
from runs import cluster, free_port, run_locust, write_trace

from fineserve_shapes.simulator.process import SimulatorProcess

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess(ttft_ms=5, itl_ms=1) as found:
        yield found


def refusal(folder: Path, *arguments: object) -> str:
    """The one line with which a run is refused, the last of all."""
    done = run_locust(folder, *arguments)
    assert done.code == 2, done.output
    assert "Traceback" not in done.output
    lines = [line for line in done.output.splitlines() if "error: " in line or "/ERROR/" in line]
    assert lines == done.output.splitlines()[-1:], done.output
    assert "Aggregated" not in done.output  # nor an empty table
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--request-trace-csv", "missing.csv"], "missing.csv"),
        (["--time-scale", "-1"], "the time scale must be finite and above 0, got -1.0 (--time-scale)"),
        (["--time-scale", "fast"], "--time-scale must be a number, got 'fast'"),
        (["--timestamp-unit", "days"], "--timestamp-unit"),
        (["--num-prompts", "0"], "--num-prompts"),
        (["--seed", "-3"], "--seed"),
        (["--extra-request-body", "{"], "--extra-request-body must be a JSON object"),
        (["--scale", "huge"], "huge"),
        (["--timestamp-column", "when"], "when"),
        (["--drain-timeout", "soon"], "--drain-timeout must be a number, got 'soon'"),
        (["--output-file", "nowhere/out.json"], "there is no directory nowhere for out.json (--output-file)"),
        (["--request-log", "log.txt"], "log.txt must end in .parquet, .jsonl, .csv (--request-log)"),
        (["--request-rate", "5"], "--request-rate belongs to poisson.py and mix.py: this locustfile does not read it"),
        (["--threshold", "p99_ttft<1"], "the summary has no figure 'p99_ttft', did you mean p99_ttft_ms?"),
        (["--threshold", "fast"], "--threshold must be a figure of the summary"),
        (["--slo-share", "95"], "--slo-share must be a share such as 0.05 or 5%, got '95'"),
        (["--fail-if-slo-missed"], "--fail-if-slo-missed needs an SLO"),
        (["--host", "ftp://example"], "(--host)"),
        (["--host", NOWHERE], "cannot reach http://127.0.0.1:9: connection refused (--host)"),
        (["--host", f"{NOWHERE}/v1/chat/completions"], "make its user a ChatUser, or ask at /v1/completions (--host)"),
        (["--host", NOWHERE, "--endpoint", "chat"], "'chat' is no path from the server's root"),
        (
            ["--host", "https://127.0.0.1:9", "--ca-file", "none.pem"],
            "in none.pem: No such file or directory (--ca-file)",
        ),
        (["--host", NOWHERE, "--ca-file", "none.pem"], "in none.pem: No such file or directory (--ca-file)"),
        (["--scrape-server-metrics", "nowhere"], "(--scrape-server-metrics takes auto, off or a URL)"),
        (["--host", NOWHERE, "--tokenizer", "./nowhere"], ""),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, arguments: list[str], line: str):
    assert line in refusal(tmp_path, "-t", "1s", *arguments)


def test_text_in_a_number_names_file_row_column_and_value(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", [0.0, 1.0, 2.0])
    trace.write_text(trace.read_text().replace("20,5,,1000000.0", "many,5,,1000000.0"))
    line = refusal(tmp_path, "--request-trace-csv", trace)
    for part in ("trace.csv", "row 2", "input_length", "'many'"):
        assert part in line


def test_a_trace_whose_unit_nobody_can_know_asks_for_it(tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("at,in,out\n" + "".join(f"{1_718_000_000 + row},5,5\n" for row in range(61)))
    names = ("--timestamp-column", "at", "--input-length-column", "in", "--output-length-column", "out")
    line = refusal(tmp_path, "--request-trace-csv", trace, *names)
    assert "say --timestamp-unit s, ms, us or ns: its 61 rows span 1.0 min in s, 0.06 s in ms" in line


def test_a_row_with_a_field_too_many_names_file_and_row(tmp_path: Path):
    (tmp_path / "trace.csv").write_text("timestamp,input_length,output_length\n0,5,5\n200,1,200,7\n")
    line = refusal(tmp_path, "--request-trace-csv", tmp_path / "trace.csv")
    assert "trace.csv: row 2 (line 3) has 4 fields where the header names 3: '200,1,200,7'" in line


def test_an_empty_trace_is_refused(tmp_path: Path):
    assert "trace.csv" in refusal(tmp_path, "--request-trace-csv", write_trace(tmp_path / "trace.csv", []))


def test_a_missing_column_is_refused_with_those_there_are(tmp_path: Path):
    (tmp_path / "trace.csv").write_text("timestamp,prompt,output_length\n1,2,3\n")
    line = refusal(tmp_path, "--request-trace-csv", tmp_path / "trace.csv")
    assert "prompt" in line


def test_an_unknown_model_is_refused_before_time_0(tmp_path: Path, simulator: SimulatorProcess):
    line = refusal(tmp_path, "--host", simulator.url, "--model", "nope")
    assert (
        f"{simulator.url}/v1/completions does not answer for model 'nope': HTTP 404: The model `nope` does not" in line
    )
    assert "its list of models has 'simulated' (--model; --skip-preflight starts without this look)" in line


def test_a_tokenizer_that_cannot_be_had_is_refused(tmp_path: Path, simulator: SimulatorProcess):
    assert "no tokenizer at ./nowhere" in refusal(tmp_path, "--host", simulator.url, "--tokenizer", "./nowhere")


def test_a_prompt_file_that_cannot_be_read_is_refused(tmp_path: Path, simulator: SimulatorProcess):
    assert "nowhere.json" in refusal(tmp_path, "--host", simulator.url, "--dataset-path", "nowhere.json")


def test_a_request_log_that_was_opened_is_closed_where_the_start_fails(tmp_path: Path):
    log = tmp_path / "log.parquet"
    line = refusal(tmp_path, "--host", NOWHERE, "--request-log", log, "--scrape-server-metrics", "ftp://x")
    assert "--scrape-server-metrics takes auto, off or a URL" in line
    assert pyarrow.parquet.read_table(log).num_rows == 0


def test_workers_report_what_they_cannot_reach(tmp_path: Path):
    """The check is made where requests leave from: on the workers; the master says it and ends."""
    with cluster(tmp_path) as locust:
        master = locust.master("--headless", "--only-summary", "--expect-workers", 1, "--host",
                               f"http://127.0.0.1:{free_port()}", "-t", "2s")  # fmt: skip
        worker = locust.worker()
        done = locust.wait(master)
        assert done.code == 2, done.output
        assert "connection refused (--host)" in done.output
        assert locust.wait(worker).code == 0


def test_forked_workers_go_with_their_master(tmp_path: Path):
    """They would wait a minute for it, since Locust forgets them where no test begins."""
    with cluster(tmp_path) as locust:
        master = locust.start("--headless", "--processes", 2, "--request-trace-csv", "missing.csv")
        done = locust.wait(master, 20)
        assert done.code == 2, done.output
        assert "missing.csv" in done.output.splitlines()[-1]
        until(lambda: locust.output(master).count("Shutting down (exit code 0)") == 2, 20)
