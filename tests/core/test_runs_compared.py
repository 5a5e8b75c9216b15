"""Runs beside each other: from files to one table, on the page and on the terminal."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import measurements, record
from test_htmlreport import HOSTILE, random_rows, write_log
from thorough import examples

from fineserve_shapes.cli import main
from fineserve_shapes.htmlreport.differing import FIGURES, Table, labels_of
from fineserve_shapes.htmlreport.differingtext import table_lines
from fineserve_shapes.htmlreport.figures import quantile_rows, stream_rows
from fineserve_shapes.htmlreport.pairing import runs_of
from fineserve_shapes.htmlreport.source import RunData
from fineserve_shapes.measure.fidelity import Accounts, Limits, judge
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.ledger import Ledgers
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.summary import summarise
from fineserve_shapes.measure.tally import Tally

SLO = Slo.parse("ttft=300ms")
REQUESTS = 2_500


def answers(ttft_s: float, seed: int, outcome: str = "ok") -> Measurements:
    """A hundred seconds of them, with first tokens after so long on average, and ten more at 20 ms."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, (due_s, wait_s) in enumerate(
        zip(np.sort(rng.uniform(0, 100, REQUESTS)), ttft_s * rng.gamma(9, 1 / 9, REQUESTS), strict=True)
    ):
        first_s = due_s + 0.001 + wait_s
        times = {
            "sent_s": due_s + 0.001,
            "first_token_s": first_s,
            "last_token_s": first_s + 0.2,
            "end_s": first_s + 0.201,
        }
        rows.append(record(index, outcome, due_s=due_s, **times))
    return measurements(rows, token_times=True)


def told(run: str, measured: Measurements, verdict: str = "valid", **more: Any) -> dict[str, Any]:
    """What a run like that would write at its end."""
    tally = Tally(SLO)
    tally.plan(np.zeros(REQUESTS, dtype=np.int64), np.sort(measured.records["due_s"]))
    tally.add(measured)
    tally.delivery.finish(101.0)
    ledgers = Ledgers()
    ledgers.plan(np.zeros(REQUESTS, dtype=np.int64))
    fidelity = {"verdict": verdict, "reasons": ["lag p99 is 90 ms"] if verdict == "invalid" else []}
    return summarise(tally, ledgers, {"requests": REQUESTS}, {"run": run, **more}, fidelity)


def table_of(*runs: RunData) -> Table:
    return Table.of(runs)


def row(table: Table, title: str) -> list[Any]:
    return dict(table.figures)[title]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Logs of three runs, one of them invalid, and the summary of one more."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, ttft_s, verdict, model in (
        ("quick", 0.2, "valid", "small"), ("slow", 0.25, "valid", "large"), ("late", 0.25, "invalid", "small"),
    ):  # fmt: skip
        measured = answers(ttft_s, len(found))
        summary = told(name, measured, verdict, model=model, mode="poisson")
        found[name] = write_log(folder / f"{name}.parquet", measured, summary)
        (folder / f"{name}.json").write_text(json.dumps(summary))
        found[f"{name} told"] = folder / f"{name}.json"
    measured = answers(0.2, 9)
    log = write_log(folder / "times.parquet", measured, told("times", measured), token_times=True)
    return found | {"times": log}


def test_a_change_is_marked_where_its_interval_leaves_out_zero(files: dict[str, Path]):
    quick, slow, again = runs_of([files["quick"], files["slow"], files["times"]])
    table = table_of(quick, slow, again)
    first, slower, same = row(table, "TTFT p50, ms")
    assert (first.change, first.mark) == ("", "")
    assert (slower.mark, same.mark) == ("*", "")
    assert float(slower.change) == pytest.approx(0.24 / 0.96 * 0.2e3, rel=0.1)
    low, high = (float(end) for end in slower.interval.split(" to "))
    assert 0 < low < float(slower.change) < high
    assert slower.ratio.startswith("+2")
    assert row(table, "share in the SLO, %")[1].mark == "*"
    assert row(table, "requests/s, steady window")[1].mark == ""
    assert table.warnings == []


def test_of_an_invalid_run_no_difference_is_certain(files: dict[str, Path]):
    """Where the first is invalid, of no run at all."""
    quick, slow, late = runs_of([files["quick"], files["slow"], files["late"]])
    table = table_of(quick, slow, late)
    marks = [cell.mark for cell in row(table, "TTFT p50, ms")]
    assert marks == ["", "*", "not certain"]
    assert table.verdicts == [("valid", ""), ("valid", ""), ("invalid", "lag p99 is 90 ms")]
    assert "late is invalid" in table.warnings[0]
    assert "its differences are not certain" in table.warnings[0]
    table = table_of(late, quick, slow)
    assert {cell.mark for _, cells in table.figures for cell in cells[1:] if cell.change} == {"not certain"}
    assert "no difference is certain" in table.warnings[0]


def test_only_what_differs_of_the_configuration_is_in_the_table(files: dict[str, Path]):
    quick, slow = runs_of([files["quick"], files["slow"]])
    assert table_of(quick, slow).differs == [("model", ["small", "large"])]


def test_gaps_between_tokens_are_compared_without_their_times(files: dict[str, Path]):
    """The mean from the columns, with an interval; quantiles from the summary, without; with times all have one."""
    quick, slow, times = runs_of([files["quick"], files["slow"], files["times"]])
    cells = {title: row(table_of(quick, slow), f"ITL {title}, ms")[1] for title in ("mean", "p50", "p99")}
    assert all(float(cell.value) == pytest.approx(20, rel=0.01) for cell in cells.values())
    assert [bool(cells[title].interval) for title in ("mean", "p50", "p99")] == [True, False, False]
    assert quick.gaps is None
    assert times.gaps is not None
    assert times.gaps.count == 10 * REQUESTS
    assert row(table_of(times, times), "ITL p99, ms")[1].interval == ""  # it is the first


def test_a_summary_by_itself_is_a_run_without_intervals(files: dict[str, Path]):
    """With the same figures, within the histogram's error, as the log has."""
    log, alone = runs_of([files["quick"], files["slow told"]])
    (same,) = runs_of([files["slow"]])
    by_log, by_summary = table_of(log, same), table_of(log, alone)
    for title in FIGURES.values():
        values = [float(row(table, title)[1].value.replace(",", "")) for table in (by_log, by_summary)]
        assert values[1] == pytest.approx(values[0], rel=0.011), title
        assert row(by_summary, title)[1].interval == ""
    assert alone.ledger["planned"] == REQUESTS


def test_a_summary_of_a_mix_has_its_table_of_streams(tmp_path: Path):
    """Without any of its requests."""
    names = Names(("chat", "code"), mixed=True)
    measured = measurements([record(i, stream=i % 2) for i in range(200)])
    tally, ledgers = Tally(SLO, names=names), Ledgers(mixed=True)
    tally.plan(measured.records["stream"].astype(np.int64), measured.records["due_s"])
    tally.add(measured)
    ledgers.plan(measured.records["stream"].astype(np.int64))
    judged = judge(tally.delivery, tally.total, Accounts(), {}, Limits())
    summary = summarise(tally, ledgers, {}, {"run": "m"}, judged, {"chat": judged, "code": judged})
    (tmp_path / "mix.json").write_text(json.dumps(summary))
    (run,) = runs_of([tmp_path / "mix.json"])
    rows = {one["name"]: one for one in stream_rows(run)}
    assert list(rows) == ["All", "chat", "code"]
    assert [rows[name]["planned"] for name in rows] == [200, 100, 100]
    assert [rows[name]["ttft_p50_ms"] for name in rows] == pytest.approx([200] * 3, rel=0.01)
    assert {one["stream"] for one in quantile_rows(run)} == {"all", "chat", "code"}


def test_a_summary_goes_with_the_log_of_its_run_and_with_no_other(files: dict[str, Path], tmp_path: Path):
    """In whatever order, and in a mix, whose request ids have the stream as well."""
    log = write_log(tmp_path / "log.jsonl", answers(0.2, 5))  # of run r1
    mine, others = told("r1", answers(0.2, 5), model="mine"), told("r2", answers(0.3, 6), model="another")
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (others, mine)))
    first, second = runs_of([tmp_path / "two.jsonl", log])
    assert [run.summary["model"] for run in (first, second)] == ["another", "mine"]
    assert [len(run.rows) for run in (first, second)] == [0, REQUESTS]
    assert labels_of([first, second]) == ["r2", "r1"]


def test_labels_are_given_in_the_order_of_the_files(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "report.html"
    paths = [str(files[name]) for name in ("quick", "slow")]
    assert main(["report", *paths, "--label", "before <b>", "--label", "after", "--out", str(out)]) == 0
    page, said = out.read_text(), capsys.readouterr().out
    assert html.escape("Comparison with before <b>") in page
    assert page.index('id="comparison"') < page.index('id="configuration"')
    assert said.splitlines()[0].split() == ["before", "<b>", "after"]
    assert said.splitlines()[1].split() == ["verdict", "valid", "valid"]
    assert "95 % interval" in said
    assert next(line for line in said.splitlines() if line.startswith("TTFT p50")).endswith("*")
    assert said.splitlines()[-1].startswith(f"{out}: 2 run(s)")


def test_one_run_is_not_set_against_anything(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "report.html"
    assert main(["report", str(files["quick"]), "--out", str(out)]) == 0
    assert 'id="comparison"' not in out.read_text()
    assert capsys.readouterr().out.count("\n") == 1


def test_a_report_of_a_summary_has_its_latencies_and_no_charts_of_requests(files: dict[str, Path], tmp_path: Path):
    out = tmp_path / "report.html"
    assert main(["report", str(files["quick told"]), "--out", str(out)]) == 0
    page = out.read_text()
    assert ">ITL</th>" in page
    assert 'id="slowest" aria-labelledby="slowest-title" hidden' in page
    assert "a summary has no requests" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quick", "--label", "a", "--label", "b"), "2 label(s) for 1 run(s)"),
        (("quick", "slow", "--label", "a"), "1 label(s) for 2 run(s)"),
        (("quick", "slow", "--label", "a", "--label", "a"), "two runs are called 'a'"),
        (("quick", "slow", "--label", "a", "--label", " "), "a label has no letters"),
        (("quick", "quick"), "is given twice"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    files: dict[str, Path], tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    given = [str(files.get(argument, argument)) for argument in arguments]
    assert main(["report", *given, "--out", str(tmp_path / "out.html")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.html").exists()


def test_hostile_names_keep_to_their_cells(files: dict[str, Path], tmp_path: Path):
    summary = told("x", answers(0.2, 7), "invalid") | {"run": HOSTILE, "model": HOSTILE}
    summary["fidelity"]["reasons"] = [HOSTILE]
    (tmp_path / "x.json").write_text(json.dumps(summary))
    lines = table_lines(table_of(*runs_of([files["quick"], tmp_path / "x.json"])))
    assert all("\u2028" not in line and "\n" not in line for line in lines)
    assert max(map(len, lines)) < 1_100


def test_runs_of_different_slos_are_not_compared_by_goodput(files: dict[str, Path], tmp_path: Path):
    other = told("other", answers(0.2, 8))
    other["goodput"]["slo"] = {"ttft_ms": 100.0}
    (tmp_path / "other.json").write_text(json.dumps(other))
    table = table_of(*runs_of([files["quick"], tmp_path / "other.json"]))
    assert ("SLO", ["ttft 300 ms", "ttft 100 ms"]) in table.differs
    assert row(table, "share in the SLO, %")[1].change == ""


@pytest.mark.timeout(180)
def test_many_requests_are_compared_in_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    requests = examples(100_000)
    logs = [
        str(write_log(tmp_path / f"{seed}.parquet", measurements(random_rows(requests, seed), ("timeout", "none"))))
        for seed in (1, 2)
    ]
    runs = runs_of([Path(log) for log in logs])
    begin_s = time.process_time()
    Table.of(runs)
    compared_s = time.process_time() - begin_s
    assert main(["report", *logs, "--out", str(tmp_path / "out.html")]) == 0
    all_s = time.process_time() - begin_s
    with capsys.disabled():
        print(f"\n2 x {requests:,} requests compared in {compared_s:.2f} s of CPU, with the report {all_s:.1f} s")
    assert compared_s < 5
    assert (tmp_path / "out.html").stat().st_size < 10e6


def test_a_histogram_of_gaps_that_a_run_gives_stands_for_the_times(files: dict[str, Path]):
    """As at a run's own end: its report needs no column of times."""
    itl = Histogram()
    itl.record(np.full(50, 0.02))
    found = RunData.read(files["times"], itl={"all": itl})
    assert found.gaps is None
    assert found.tally.table()["total"]["itl"]["count"] == 50
