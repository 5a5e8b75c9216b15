"""JSONL files: the columns are those of all rows, and values are taken as in the other formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from traces import read, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces import jsonlfile
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

Write = Callable[..., Path]


def line(time: object, **more: object) -> str:
    return json.dumps({"timestamp": time, "input_length": 5, "output_length": 6} | more)


@pytest.mark.parametrize("at", [0, 1, 7, 2999])
def test_ids_of_shared_blocks_count_whichever_row_is_the_first_to_have_them(write: Write, at: int) -> None:
    """A row without them shares nothing, and changes nothing for the others."""
    lines = [line(time, **({"hash_ids": [time]} if time % 3000 >= at else {})) for time in range(3000)]
    trace = open_trace(write(*lines, name="t.jsonl"))
    assert trace.survey.unit_reason == "the Mooncake form"
    prefix = read(trace).prefix
    assert prefix is not None
    assert prefix.rows() == [(512, time) if time >= at else () for time in range(3000)]


@pytest.mark.parametrize("lacking", ["latency", "architecture", "scale"])
def test_an_optional_key_does_not_change_the_unit(write: Write, lacking: str) -> None:
    """Microseconds stay microseconds where the first row lacks a key of the published form."""
    whole = {"latency": 0.1, "architecture": "Dense", "scale": "<10B"}
    first = {key: value for key, value in whole.items() if key != lacking}
    survey = open_trace(write(line(0, **first), line(2_500_000, **whole), name="t.jsonl")).survey
    assert (survey.timestamp_unit, survey.span_s) == ("us", 2.5)


@pytest.mark.parametrize(
    ("late", "told"), [({"hash_ids": [1]}, "hash_ids"), ({"latency": 1}, "latency"), ({"chat_id": 1}, "chat_id")]
)
def test_a_key_that_tells_too_late_what_the_file_is_is_an_error(
    write: Write, monkeypatch: pytest.MonkeyPatch, late: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(jsonlfile, "HEAD_ROWS", 10)
    path = write(*map(line, range(10)), "", line(10, note="x"), line(11, **late), name="t.jsonl")
    message = rf'row 12 \(line 13\) is the first with the key {told}, and the first 10 rows .*: put "{told}": null into'
    with pytest.raises(InputError, match=message):
        open_trace(path, chunk_rows=5)
    first = line(0, **dict.fromkeys(late))
    options = TraceOptions(timestamp_unit="s")
    path = write(first, *map(line, range(1, 10)), line(10, note="x"), line(11, **late), name="t.jsonl")
    assert open_trace(path, options, chunk_rows=5).survey.kept == 12


def test_the_head_of_long_rows_is_bounded_in_bytes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonlfile, "HEAD_BYTES", 200)
    with pytest.raises(InputError, match="the first 4 rows tell"):
        open_trace(write(*map(line, range(10)), line(11, hash_ids=[1]), name="t.jsonl"))


def test_numbers_may_be_texts_and_empty_ones_are_missing(write: Write) -> None:
    lines = [line("0"), line(""), line(" "), line(None), line("1.5e3", input_length="7", output_length=" 8 ")]
    trace = open_trace(write(*lines, name="t.jsonl"))
    assert rows(trace) == [(0.0, 5, 6), (1.5, 7, 8)]
    assert trace.survey.dropped["missing_timestamp"] == 3


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("5,5", r"'5,5' is no number \(it takes a decimal point\)"),
        ("1_000", "'1_000' is no number"),
        ({"tokens": 5}, r"{'tokens': 5} is no number"),
        ([5], r"\[5\] is no number"),
        (False, "False is no number"),
        ("", "no value where each row must have a length"),
        (1.5, "1.5 is no whole number"),
    ],
)
def test_a_length_that_is_none_is_an_error_with_its_place(write: Write, value: object, complaint: str) -> None:
    path = write(line(0), "", line(1, input_length=value), name="t.jsonl")
    with pytest.raises(InputError, match=rf"row 2 \(line 3\), column input_length: {complaint}"):
        open_trace(path)


def test_a_name_in_another_case_is_shown_with_its_flag(write: Write) -> None:
    path = write('{"timestamp": 0, "inputLength": 1, "output_length": 1}', name="t.jsonl")
    with pytest.raises(
        InputError, match=r"it has timestamp, inputLength, .*; is it --input-length-column inputLength\?"
    ):
        open_trace(path)
