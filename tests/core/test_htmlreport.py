"""The report: from request logs as a run writes them, in every form, to a page that is whole and harmless."""

from __future__ import annotations

import json
import re
import resource
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import measurements, record
from thorough import examples

from fineserve_shapes.cli import main
from fineserve_shapes.errors import InputError
from fineserve_shapes.htmlreport import figures
from fineserve_shapes.htmlreport.page import render, write_report
from fineserve_shapes.htmlreport.source import RunData
from fineserve_shapes.measure.measurements import MAX_ERROR_CHARS, Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.requestlog import RequestLog
from fineserve_shapes.measure.tally import Tally

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'=cmd()\n\u2028{{ 7*7 }}" + "A" * 1_000_000


def random_rows(count: int, seed: int = 1) -> list[tuple[object, ...]]:
    rng = np.random.default_rng(seed)
    due_s = np.cumsum(rng.exponential(0.02, count))
    lag_s, ttft_s = rng.exponential(0.001, count), rng.lognormal(-2, 0.6, count)
    tokens, prompt = rng.integers(1, 300, count), rng.integers(1, 4000, count)
    tpot_s = rng.lognormal(-4, 0.3, count)
    outcomes = rng.choice(["ok", "ok", "ok", "ok", "timeout"], count)
    return [
        record(
            i,
            outcomes[i],
            stream=i % 2,
            due_s=due_s[i],
            sent_s=due_s[i] + lag_s[i],
            first_token_s=due_s[i] + lag_s[i] + ttft_s[i],
            last_token_s=due_s[i] + lag_s[i] + ttft_s[i] + (tokens[i] - 1) * tpot_s[i],
            end_s=due_s[i] + lag_s[i] + ttft_s[i] + (tokens[i] - 1) * tpot_s[i] + 0.001,
            asked_input=prompt[i],
            input_tokens=prompt[i],
            output_tokens=tokens[i],
            asked_output=tokens[i],
            chunks=3,
        )
        for i in range(count)
    ]


def write_log(path: Path, measured: Measurements, about: dict[str, Any] | None = None, **options: Any) -> Path:
    log = RequestLog(path, "r1", **options)
    log.write(measured, "worker-1")
    lost = np.arange(10_000_000, 10_000_003)
    none = np.zeros(3, dtype=np.int64)
    log.write_lost("unsent", lost, lost, none, np.full(3, 1.0), none + 5, none + 6)
    log.close(json.dumps(about or {}).encode())
    return path


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_a_log_read_back_gives_the_figures_of_the_run(tmp_path: Path, form: str):
    rows = random_rows(800)
    measured = measurements(rows, ("timeout", "no progress"), token_times=True)
    tally = Tally()
    tally.add(measured)
    run = RunData.read(write_log(tmp_path / f"log.{form}", measured, token_times=True))
    assert run.ledger["planned"] == 803
    assert run.ledger["unsent"] == 3
    assert run.ledger["ok"] + run.ledger["timeout"] == 800
    expected, found = tally.table(), run.tally.table()
    for stream in ("all", "1"):
        for name, values in expected["streams"][stream].items():
            if isinstance(values, dict) and "p99_ms" in values:
                assert found["streams"][stream][name] == pytest.approx(values, rel=1e-3, abs=1e-2), name
            else:
                assert found["streams"][stream][name] == values
    assert found["total"]["itl"]["count"] == expected["total"]["itl"]["count"] > 0
    assert run.fidelity["asked"]["requests"] == 803


def test_the_mean_in_flight_is_that_of_counting_each_moment():
    rows = measurements(random_rows(300)).records
    begin_s = np.arange(0.0, 8.0)
    fine = np.arange(0.0, 8.0, 1e-3) + 5e-4
    counted = figures.in_flight_at(rows, fine).reshape(8, -1).mean(axis=1)
    assert figures.mean_in_flight(rows, begin_s, begin_s + 1) == pytest.approx(counted, abs=0.05)


def test_bins_hold_all_values_and_their_quantiles():
    rng = np.random.default_rng(2)
    x, y = rng.integers(1, 5000, 20_000).astype(float), rng.lognormal(0, 1, 20_000)
    found = figures.against(x, y)
    assert sum(found["bins"]["count"]) == 20_000
    assert len(found["bins"]["x"]) <= figures.BINS
    assert len(found["sample"]["x"]) == figures.SAMPLE
    assert found["bins"]["p50"] == pytest.approx([1.0] * len(found["bins"]["x"]), rel=0.2)


def test_one_value_and_none_at_all_can_be_drawn(tmp_path: Path):
    one = RunData.read(write_log(tmp_path / "one.jsonl", measurements([record(0)])))
    none = RunData.read(write_log(tmp_path / "none.jsonl", measurements([record(0, "timeout")])))
    page = render([one, none])
    assert "one" in page
    assert "none" in page


def test_time_held_back_is_no_lag_in_the_table_of_slowest_requests(tmp_path: Path):
    rows = [record(0, sent_s=0.501, first_token_s=0.701, last_token_s=0.9, end_s=0.901, held_s=0.5)]
    (found,) = figures.slowest(RunData.read(write_log(tmp_path / "log.jsonl", measurements(rows))), "e2e")
    assert (found["lag_ms"], found["held_ms"]) == (pytest.approx(1.0), pytest.approx(500.0))


class Reader(HTMLParser):
    """The elements of a page, and all that would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("src", "href", "srcset", "data", "action") and not (value or "").startswith("#"):
                self.loads.append(str(value))


def hostile_run(folder: Path, form: str) -> RunData:
    measured = measurements([record(i, "http_error") for i in range(5)] + [record(9)], ("http_error", "x"))
    measured.errors[:] = [(("http_error", HOSTILE), np.arange(5))]
    about = {
        "run": HOSTILE, "model": HOSTILE, "host": HOSTILE, "mode": HOSTILE, "error": HOSTILE, "goodput": None,
        "plan": {HOSTILE: HOSTILE, "fingerprint": HOSTILE}, "warmup": {"requests": HOSTILE, "seconds": HOSTILE},
    }  # fmt: skip
    return RunData.read(write_log(folder / f"=cmd()<b>.{form}", measured, about), about)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_hostile_text_is_only_text_and_bounded(tmp_path: Path, form: str):
    run = hostile_run(tmp_path, form)
    assert max(len(text) for text in run.errors if text) <= MAX_ERROR_CHARS
    page = render([run, run])
    reader = Reader()
    reader.feed(re.sub(r"(?s)(<script>)/\*\*.*?(</script>)", r"\1\2", page))
    assert reader.tags.count("script") == 4
    assert "img" not in reader.tags
    assert reader.loads == reader.handlers == []
    assert "49" not in re.findall(r"(?s)<h1>(.*?)</h1>", page)[0]  # no template in a text is run
    assert len(page) < 5_500_000
    data = re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)
    assert data is not None
    assert len(json.loads(data[1])["runs"]) == 2


def test_the_csv_cells_of_foreign_text_are_no_formulas(tmp_path: Path):
    measured = measurements([record(0, "http_error")], ("http_error", "=cmd()|'/c calc'!A1"))
    path = write_log(tmp_path / "log.csv", measured)
    assert "\"'=cmd()" in path.read_text()


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path):
    out = tmp_path / "report.html"
    write_report([RunData.read(write_log(tmp_path / "log.parquet", measurements(random_rows(50))))], out)
    page = out.read_text()
    reader = Reader()
    reader.feed(re.sub(r"(?s)(<script>)/\*\*.*?(</script>)", r"\1\2", page))
    assert reader.loads == []
    assert "default-src 'none'" in page
    assert [found.name for found in tmp_path.iterdir()] in (
        ["report.html", "log.parquet"],
        ["log.parquet", "report.html"],
    )


@pytest.mark.timeout(180)
def test_many_requests_take_seconds_and_megabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    requests = examples(100_000)
    path = write_log(tmp_path / "log.parquet", measurements(random_rows(requests), ("timeout", "no progress")))
    out = tmp_path / "report.html"
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    write_report([RunData.read(path)], out)
    took_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
    size = out.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with capsys.disabled():
        print(
            f"\nreport of {requests:,} requests: {took_s:.1f} s ({cpu_s:.1f} s of CPU), {size / 1e6:.1f} MB, {peak} MB held"
        )
    assert cpu_s < 10
    assert size < 10e6


def test_the_command_takes_several_runs_and_summaries_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = write_log(tmp_path / "a.jsonl", measurements(random_rows(40)))
    other = write_log(tmp_path / "b.parquet", measurements(random_rows(40, 2)), {"run": "r1", "model": "in the file"})
    summary = tmp_path / "a.json"
    summary.write_text(json.dumps({"run": "r1", "model": "beside it"}))
    out = tmp_path / "out.html"
    assert main(["report", str(log), str(summary), "--out", str(out)]) == 0
    assert "beside it" in out.read_text()
    assert main(["report", str(log), str(other), "--out", str(out)]) == 0
    assert "in the file" in out.read_text()
    assert "2 run(s), 86 requests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "{", "is no request log"),
        ("a.jsonl", '{"index": 1}\n', "is no request log"),
        ("a.csv", "a,b\n1,2\n", "has no column request_id"),
        ("a.parquet", "PAR1", "is no request log"),
        ("a.txt", "x", "those end in .parquet, .jsonl or .csv"),
        ("a.json", "", "is empty"),
        ("a.json", "[]", "is no JSON object"),
        ("a.json", "{}", "is no summary: it has no ledger"),
    ],
)
def test_what_is_no_log_is_one_line(
    tmp_path: Path, name: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / name).write_text(text)
    assert main(["report", str(tmp_path / name), "--out", str(tmp_path / "out.html")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize("name", ["none", "none.parquet", "none.csv", "none.json"])
def test_a_file_that_is_not_there_is_said_to_be_missing_whatever_its_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["report", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == f"fineserve: error: there is no file {tmp_path / name}\n"
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="is a directory"):
        RunData.read(tmp_path / name)


def test_a_misspelt_option_names_the_nearest_of_its_command(capsys: pytest.CaptureFixture[str]):
    assert main(["report", "log.csv", "--uot", "x"]) == 2
    expected = "fineserve: error: unknown argument --uot: did you mean --out? (see fineserve report --help)\n"
    assert capsys.readouterr().err == expected


def test_a_mix_has_a_table_and_figures_by_stream(tmp_path: Path):
    """From the log alone, and with what the run's summary knows besides."""
    measured = measurements(random_rows(300), ("timeout", "no progress"))
    names = Names(("chat", "code"), True)
    told = {"streams": {"chat": {"model": "small", "goodput": {"share": 0.5, "slo": {"ttft_ms": 500.0}}}, "code": {}}}
    for about in ({}, told):
        run = RunData.read(write_log(tmp_path / f"log{len(about)}.parquet", measured, about, names=names), about)
        rows = {row["name"]: row for row in figures.stream_rows(run)}
        assert list(rows) == ["All", "chat", "code"]
        for column in ("planned", "ok", "failed"):
            assert rows["All"][column] == rows["chat"][column] + rows["code"][column] > 0
        assert rows["chat"]["planned"] == 153  # three of it were never sent
        assert rows["code"]["ttft_p50_ms"] == run.tally.table()["streams"]["code"]["ttft"]["p50_ms"]
        assert (rows["chat"]["model"], rows["chat"]["good_share"]) == (("small", 0.5) if about else (None, None))
        drawn = figures.drawn(run)
        assert [stream["name"] for stream in drawn["streams"]] == ["chat", "code"]
        sent = [stream["columns"]["sent"] for stream in drawn["streams"]]
        assert np.add(*sent).tolist() == drawn["columns"]["sent"]
        together = np.add(*(stream["columns"]["in_flight"] for stream in drawn["streams"]))
        assert together == pytest.approx(np.array(drawn["columns"]["in_flight"]), abs=0.002)
        page = render([run])
        assert '<section id="streams"' in page
    assert '<section id="streams"' not in render(
        [RunData.read(write_log(tmp_path / "one.jsonl", measurements([record(0)])))]
    )


def test_servers_are_told_apart_where_there_are_several(tmp_path: Path):
    figures_of = {"max_running": 3.0, "series": {"at_s": [1.0], "running": [3.0]}}
    hosts = {"http://a/metrics": figures_of, "http://b/metrics": figures_of | {"max_running": 4.0}}
    one = {"url": "http://a/metrics", **figures_of}
    several = ["server http://a: most running", "server http://b: most running"]
    for told, expected in ((one, ["server: most running"]), ({"hosts": hosts}, several)):
        about = {"server_metrics": told}
        run = RunData.read(write_log(tmp_path / f"{len(expected)}.jsonl", measurements([record(0)])), about)
        urls = [server["url"] for server in figures.drawn(run)["servers"]]
        assert urls == list(hosts)[: len(expected)]
        assert all(text in render([run]) for text in expected)
