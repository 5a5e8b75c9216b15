"""The request log in its three forms: every row once, missing values missing, foreign text harmless."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from measured import measurements, record

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure import requestlog
from fineserve_shapes.measure.requestlog import SCHEMA, RequestLog, harmless

FORMS = ("log.parquet", "log.jsonl", "log.csv")
HOSTILE = [
    '=cmd|"/C calc"!A1',
    "+1",
    "-2",
    "@SUM(A1)",
    "\tx",
    'a "quoted", text',
    "<script>alert(1)</script>",
    "a\nb;c",
]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lost(log: RequestLog, outcome: str, first: int, count: int, workers: list[str] | None = None) -> None:
    index = np.arange(first, first + count)
    log.write_lost(outcome, index, index, np.zeros(count, int), 0.1 * index, index + 5, index + 6, workers)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_holds_the_same_rows(tmp_path: Path, name: str):
    log = RequestLog(tmp_path / name, "abc", warmup_s=0.05)
    log.write(measurements([record(0), record(1, output_tokens=-1, input_tokens=-1, from_usage=False)]), "w1")
    failed = record(2, "timeout", first_token_s=np.nan, last_token_s=np.nan, first_visible_s=np.nan, chunks=0, status=0)
    log.write(measurements([failed], ("timeout", "no progress for 5 s")), "w2")
    lost(log, "unknown", 3, 1, ["w3"])
    lost(log, "unsent", 4, 2)
    log.close(b'{"run": "abc"}')
    rows = read(tmp_path / name)
    nothing = "" if name.endswith(".csv") else None
    assert log.rows == len(rows) == 6
    assert list(rows[0]) == SCHEMA.names
    assert [str(row["index"]) for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [row["request_id"] for row in rows] == [f"abc-{index}" for index in range(6)]
    assert [row["outcome"] for row in rows] == ["ok", "ok", "timeout", "unknown", "unsent", "unsent"]
    assert [row["worker"] for row in rows] == ["w1", "w1", "w2", "w3", nothing, nothing]
    assert [row["error"] for row in rows][1:3] == [nothing, "no progress for 5 s"]
    assert [row["tokens_from"] for row in rows] == ["usage", nothing, "usage", nothing, nothing, nothing]
    assert rows[1]["output_tokens"] == rows[2]["first_token_s"] == rows[2]["status"] == rows[5]["sent_s"] == nothing
    assert float(rows[0]["first_token_s"]) == pytest.approx(0.201)
    assert [str(row["warmup"]).lower() for row in rows[:2]] == ["true", "false"]
    assert int(rows[5]["asked_output"]) == 11


@pytest.mark.parametrize("name", FORMS)
def test_every_tokens_time_can_be_a_column(tmp_path: Path, name: str):
    log = RequestLog(tmp_path / name, "abc", token_times=True)
    log.write(measurements([record(0), record(1, chunks=3), record(2, "timeout", chunks=0)], token_times=True), "w")
    lost(log, "unsent", 3, 1)
    log.close()
    found = [row["token_times_s"] for row in read(tmp_path / name)]
    if name.endswith(".csv"):
        assert found[3] == ""
        found = [[float(time_s) for time_s in text.split(";") if time_s] for text in found[:3]] + [None]
    assert [None if times is None else len(times) for times in found] == [11, 3, 0, None]
    assert found[1] == pytest.approx([0.301, 0.401, 0.501])


@pytest.mark.parametrize("name", FORMS)
def test_foreign_text_comes_back_whole_and_is_no_formula(tmp_path: Path, name: str):
    log = RequestLog(tmp_path / name, "abc")
    for index, text in enumerate(HOSTILE):
        log.write(measurements([record(index, "http_error", chunks=0)], ("http_error", text)), "=worker()")
    log.close()
    rows = read(tmp_path / name)
    if name.endswith(".csv"):
        assert [row["error"] for row in rows] == [harmless(text) for text in HOSTILE]
        assert not any(row[column].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows
                       for column in ("error", "worker"))  # fmt: skip
    else:
        assert [row["error"] for row in rows] == HOSTILE


def test_an_error_of_a_megabyte_is_cut(tmp_path: Path):
    log = RequestLog(tmp_path / "log.jsonl", "abc")
    log.write(measurements([record(0, "http_error", chunks=0)], ("http_error", "x" * 2**20)), "w")
    log.close()
    assert len(read(tmp_path / "log.jsonl")[0]["error"]) < 1000


def test_parquet_is_written_in_row_groups_and_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requestlog, "ROW_GROUP_ROWS", 20)
    log = RequestLog(tmp_path / "log.parquet", "abc")
    for start in range(0, 100, 10):
        log.write(measurements([record(index) for index in range(start, start + 10)]), "w")
    log.close(b'{"run": "abc"}')
    file = pyarrow.parquet.ParquetFile(tmp_path / "log.parquet")
    assert file.metadata.num_row_groups == 5
    assert json.loads(file.metadata.metadata[b"fineserve"]) == {"run": "abc"}


def test_many_small_batches_are_joined_on_the_way_and_written_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log = RequestLog(tmp_path / "log.parquet", "abc")
    for index in range(300):
        log.write(measurements([record(index)]), "w")
    waiting = log._form._tables  # type: ignore[attr-defined]
    assert len(waiting) < requestlog.JOINED_TABLES + 300 / requestlog.JOINED_TABLES
    monkeypatch.setattr(requestlog, "ROW_GROUP_S", 0.0)
    log.write(measurements([record(300)]), "w")
    assert not log._form._tables  # type: ignore[attr-defined]
    log.close()
    assert [row["index"] for row in read(tmp_path / "log.parquet")] == list(range(301))


def test_the_runs_name_can_be_in_the_files(tmp_path: Path):
    log = RequestLog(tmp_path / "log-{run}.jsonl", "abc")
    log.close()
    assert (tmp_path / "log-abc.jsonl").exists()


@pytest.mark.parametrize("name", FORMS)
def test_an_empty_log_is_a_file_without_rows(tmp_path: Path, name: str):
    RequestLog(tmp_path / name, "abc").close()
    assert read(tmp_path / name) == []


@pytest.mark.parametrize(("name", "text"), [("log.xlsx", "must end in .parquet, .jsonl, .csv"),
                                            ("missing/log.csv", "cannot write to"),
                                            ("missing/log.parquet", "cannot write to")])  # fmt: skip
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, text: str):
    with pytest.raises(InputError, match=text):
        RequestLog(tmp_path / name, "abc")
