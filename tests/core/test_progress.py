"""What a person sees while a run goes on, and the tables beside Locust's."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from measured import measurements, record

from fineserve_shapes.measure.csvtables import write_history, write_table
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.ledger import ASIDE, Ledger, done, failed
from fineserve_shapes.measure.overload import REPEAT_S, Strain
from fineserve_shapes.measure.progress import Progress
from fineserve_shapes.measure.tally import Tally


def test_a_run_is_one_line():
    progress = Progress(42.0, 210, 500, 5.0, 12, 0, 0.12, 0.3, 100.0)
    assert progress.line() == (
        "0:42  210 of 500 done  5/s  12 in flight  TTFT p50 120 ms p99 300 ms  0 failed  0:58 left"
    )


def test_what_was_not_sent_or_cancelled_is_neither_done_nor_failed():
    ledger = Ledger()
    ledger.plan(35)
    for outcome, count in (("ok", 2), ("http_error", 1), ("cancelled", 2), ("unsent", 30)):
        ledger.end(outcome, count)
    aside = {outcome: ledger[outcome] for outcome in ASIDE if ledger[outcome]}
    line = Progress(4.0, done(ledger), 35, 0.0, 0, failed(ledger), None, None, None, aside).line()
    assert line == "0:04  3 of 35 done  0/s  0 in flight  1 failed  2 cancelled  30 unsent"
    assert done(ledger) + sum(ledger[outcome] for outcome in ASIDE) == ledger.planned


def test_what_is_not_known_is_left_out():
    assert (
        Progress(3700.0, 7, None, 0.0, 0, 1, None, None, None).line() == "1:01:40  7 done  0/s  0 in flight  1 failed"
    )
    assert Progress(101.0, 7, 7, 0.0, 2, 0, None, None, 100.0).line().endswith("waiting for the last answers")


def test_the_tables_hold_the_tallys_figures(tmp_path: Path):
    tally = Tally()
    tally.plan(np.zeros(40, dtype=np.int64), 0.1 * np.arange(40))
    tally.add(measurements([record(i, stream=i % 2) for i in range(40)]))
    write_table(tmp_path / "table.csv", tally.table())
    write_history(tmp_path / "history.csv", tally.series.as_dict())
    with (tmp_path / "table.csv").open(newline="") as file:
        table = {(row["stream"], row["metric"]): row for row in csv.DictReader(file)}
    assert table["total", "ttft"]["count"] == "40"
    assert table["1", "itl"]["count"] == "200"
    assert float(table["all", "ttft"]["p99_ms"]) == pytest.approx(200, rel=0.005)
    with (tmp_path / "history.csv").open(newline="") as file:
        history = [row for row in csv.DictReader(file) if row["stream"] == "total"]
    assert [int(row["planned"]) for row in history] == [10, 10, 10, 10, 0]
    assert sum(int(row["ok"]) for row in history) == 40
    assert history[4]["ttft_p50_ms"] != ""
    assert history[4]["lag_p50_ms"] == ""


def test_a_process_that_does_not_keep_up_is_named_now_and_then():
    strain, delays = Strain(0.010), Histogram()
    said = []
    for step in range(1200):  # a minute: quick at first, slow from 20 s on
        delays.record(np.array([0.001 if step < 400 else 0.05]))
        if (late_s := strain.excess_s("a", delays, 0.05 * step)) is not None:
            said.append((0.05 * step, late_s))
    assert [round(at_s) for at_s, _ in said] == [pytest.approx(25, abs=1), pytest.approx(25 + REPEAT_S, abs=6)]
    assert said[0][1] == pytest.approx(0.05, rel=0.05)
