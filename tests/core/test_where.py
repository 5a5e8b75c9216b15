"""Selecting rows by what a column holds: the same rows in every format, pushed down to the reader or not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples
from traces import MINIMAL, read, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.recordedpairs import read_pairs
from fineserve_shapes.workload.replay import trace_plan
from fineserve_shapes.workload.traces.reading import Reading
from fineserve_shapes.workload.traces.selection import parse_where, where_text
from fineserve_shapes.workload.traces.trace import Trace, TraceOptions, open_trace

Write = Callable[..., Path]
FORMATS = ("csv", "jsonl", "parquet")
MODEL = MINIMAL + ",model"

# --- what is typed

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(TEXT.map(str.strip).filter(lambda name: name and "=" not in name), TEXT), max_size=4))
def test_any_columns_and_values_can_be_typed(pairs: list[tuple[str, str]]) -> None:
    """As one option, whose ends the command line, the web form and a mix strip."""
    assert parse_where(where_text(pairs).strip()) == tuple(pairs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("model=GPT-4", (("model", "GPT-4"),)),
        ("model=a b, type=x=y", (("model", "a b"), ("type", "x=y"))),
        ("model=", (("model", ""),)),
        ('"model=a,b",turn=1', (("model", "a,b"), ("turn", "1"))),
    ],
)
def test_conditions_stand_between_commas(text: str, expected: tuple[tuple[str, str], ...]) -> None:
    assert parse_where(text) == expected


@pytest.mark.parametrize("text", ["model", "=x", "model=a,b", '"model=a', "a=1\nb=2", "model=a,"])
def test_what_is_no_condition_is_one_line_with_the_form(text: str) -> None:
    with pytest.raises(InputError, match=r"--where takes COLUMN=VALUE") as caught:
        parse_where(text)
    assert "\n" not in str(caught.value)


def test_two_values_of_one_column_are_no_selection() -> None:
    with pytest.raises(InputError, match=r"no row has two values of model, 'a' and 'b' \(--where\)"):
        TraceOptions(where=(("model", "a"), ("model", "b")))


# --- twins


class Request(NamedTuple):
    """A row to write."""

    time: int
    input_length: int
    output_length: int
    model: str | None
    kind: str | None


VALUES = st.sampled_from(
    [None, "a", "A", "a b", " a", "x,y", 'say "so"', "NA", "null", "None", "1", "1.0", "é", "two\nlines"]
)
REQUESTS = st.lists(
    st.builds(Request, st.integers(0, 40), st.integers(0, 9), st.integers(1, 9), VALUES, st.sampled_from(["t", None])),
    max_size=40,
)


def written(folder: Path, requests: Sequence[Request], suffix: str) -> Path:
    path = folder / f"t.{suffix}"
    names = ("timestamp", "input_length", "output_length", "model", "kind")
    if suffix == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *requests])
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, request, strict=True))) + "\n" for request in requests))
    else:
        schema = pa.schema([*((name, pa.int64()) for name in names[:3]), ("model", pa.string()), ("kind", pa.string())])
        table = pa.Table.from_pylist([dict(zip(names, request, strict=True)) for request in requests], schema=schema)
        pq.write_table(table, path, row_group_size=7)
    return path


def opened(path: Path, options: TraceOptions, plain: bool, **sizes: int) -> Trace:
    """Read with the conditions pushed down to the reader, or with the plain way alone."""
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            wanted = Reading.wanted
            patch.setattr(Reading, "wanted", lambda self, **more: replace(wanted(self, **more), conditions=()))
        return open_trace(path, options, **sizes)


@pytest.mark.parametrize("suffix", FORMATS)
@given(
    requests=REQUESTS,
    where=st.tuples(VALUES, st.sampled_from([None, "t", ""])),
    origin=st.sampled_from(["selection", "trace"]),
    chunk_rows=st.integers(1, 50),
    memory_rows=st.sampled_from([2, 1000]),
    plain=st.booleans(),
)
@settings(deadline=None, max_examples=examples(60))
def test_the_selected_rows_are_those_of_a_file_that_has_no_others(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, requests: list[Request],
    where: tuple[str | None, str | None], origin: str, chunk_rows: int, memory_rows: int, plain: bool,
) -> None:  # fmt: skip
    if memory_rows < 1000:
        requests = sorted(requests, key=lambda request: request.time)
    model, kind = where[0] or "", where[1]
    pairs = (("model", model), *(() if kind is None else (("kind", kind),)))
    chosen = [request for request in requests if (request.model or "") == model and kind in (None, request.kind or "")]
    usable = sorted((request for request in chosen if request.input_length), key=lambda request: request.time)
    if not requests:
        return  # a JSONL file without a line has no columns
    folder = tmp_path_factory.mktemp("law")
    options = TraceOptions(timestamp_unit="s", where=pairs, time_origin=origin)
    path = written(folder, requests, suffix)
    if not usable:
        with pytest.raises(InputError):
            opened(path, options, plain, chunk_rows=chunk_rows, memory_rows=memory_rows)
        return
    trace = opened(path, options, plain, chunk_rows=chunk_rows, memory_rows=memory_rows)
    zero = min(request.time for request in requests) if origin == "trace" else usable[0].time
    expected = [(float(one.time - zero), one.input_length, one.output_length) for one in usable]
    assert rows(trace) == expected
    survey = trace.read_survey()
    assert (survey.rows, survey.kept, survey.filtered) == (len(requests), len(usable), len(requests) - len(chosen))
    assert survey.rows == survey.kept + survey.filtered + survey.outside_slice + sum(survey.dropped.values())


@pytest.mark.parametrize("suffix", FORMATS)
def test_parts_of_a_trace_together_are_the_trace(tmp_path: Path, suffix: str) -> None:
    """With the time origin of the whole, and each slice of it too."""
    requests = [Request(time, time + 1, 1, "abc"[time * time % 3], None) for time in range(3, 60)]
    path = written(tmp_path, [*requests[::-1]], suffix)
    for start_at_s, duration_s in ((0.0, None), (10.0, 20.0)):
        options = TraceOptions(timestamp_unit="s", time_origin="trace", start_at_s=start_at_s, duration_s=duration_s)
        whole = rows(open_trace(path, options))
        parts = [
            row
            for model in sorted({request.model or "" for request in requests})
            for row in rows(open_trace(path, replace(options, where=(("model", model),))))
        ]
        assert sorted(parts) == whole


def test_a_long_file_whose_other_rows_are_unsorted_has_no_origin(write: Write) -> None:
    """Time 0 of its parts would depend on how far it was read."""
    path = write(MODEL, *(f"{1000 * time},1,1,a" for time in range(5, 50)), "0,1,1,b", "60000,1,1,a")
    options = TraceOptions(where=(("model", "a"),), timestamp_unit="ms")
    assert len(rows(open_trace(path, options, chunk_rows=7, memory_rows=20))) == 46
    trace = open_trace(path, replace(options, time_origin="trace"), chunk_rows=7, memory_rows=20)
    with pytest.raises(InputError, match=r"row 46 \(line 47\) is earlier"):
        rows(trace)
    held = open_trace(path, replace(options, time_origin="trace"))
    assert rows(held)[0] == (5.0, 1, 1)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_place_in_a_file_counts_the_rows_that_are_left_out(tmp_path: Path, suffix: str) -> None:
    requests = [Request(1, 1, 1, "b", None), Request(2, 1, 1, "a", None), Request(3, 0, 1, "a", None)]
    options = TraceOptions(timestamp_unit="s", where=(("model", "a"),), below_one="error")
    with pytest.raises(InputError, match=r"row 3.*, column input_length: 0 is below 1"):
        open_trace(written(tmp_path, requests, suffix), options)


@pytest.mark.parametrize("value", [5, 5.5, True, [1], {"a": 1}])
def test_nothing_else_is_asked_of_rows_that_are_left_out(write: Write, value: object) -> None:
    line = {"timestamp": 0, "input_length": 1, "output_length": 1, "model": "a"}
    path = write(json.dumps(line), json.dumps(line | {"output_length": "x", "model": value}), name="t.jsonl")
    options = TraceOptions(timestamp_unit="s", where=(("model", "a"),))
    assert rows(open_trace(path, options)) == [(0.0, 1, 1)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("origin", ["selection", "trace"])
def test_chunks_without_a_selected_row_are_passed_over(tmp_path: Path, suffix: str, origin: str) -> None:
    """Date-times and lists of ids among them."""
    path = tmp_path / f"t.{suffix}"
    rows_of = [
        {
            "timestamp": f"2026-06-01T00:00:0{at}Z",
            "input_length": 600,
            "output_length": 1,
            "hash_ids": [at, 9],
            "model": model,
        }
        for at, model in enumerate("bbabb")
    ]
    if suffix == "csv":
        lines = [[json.dumps(value) if isinstance(value, list) else value for value in row.values()] for row in rows_of]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([list(rows_of[0]), *lines])
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of))
    else:
        pq.write_table(pa.Table.from_pylist(rows_of), path)
    options = TraceOptions(where=(("model", "a"),), time_origin=origin)
    trace = open_trace(path, options, chunk_rows=2)
    assert rows(trace) == [(2.0 if origin == "trace" else 0.0, 600, 1)]
    prefix = read(trace).prefix
    assert prefix is not None
    assert prefix.rows() == [(512, 2, 9)]


def test_a_part_may_be_as_sparse_as_it_likes(write: Write) -> None:
    """No unit is doubted for that; all rows together are held to what a service sees."""
    path = write(MODEL, *(f"{100 * second},1,1,{'b' if second % 500 else 'a'}" for second in range(1001)))
    assert open_trace(path, TraceOptions(timestamp_unit="s")).survey.warnings == ()
    assert open_trace(path, TraceOptions(timestamp_unit="s", where=(("model", "a"),))).survey.warnings == ()
    (warning,) = open_trace(write(MINIMAL, "0,1,1", "50000,1,1"), TraceOptions(timestamp_unit="s")).survey.warnings
    assert "--timestamp-unit" in warning


# --- values as texts


def test_numbers_compare_as_they_are_written(write: Write) -> None:
    path = write(MODEL, "0,1,1,1", "1,2,1,1.0", "2,3,1,01", "3,4,1,true")
    for value, length in (("1", 1), ("1.0", 2), ("01", 3), ("true", 4)):
        assert [
            row[1] for row in rows(open_trace(path, TraceOptions(where=(("model", value),), timestamp_unit="s")))
        ] == [length]


def test_values_of_json_and_parquet_are_the_texts_that_json_writes(tmp_path: Path, write: Write) -> None:
    values = [1, 1.5, True, None]
    lines = [
        json.dumps({"timestamp": at, "input_length": at + 1, "output_length": 1, "turn": value})
        for at, value in enumerate(values)
    ]
    path = write(*lines, name="t.jsonl")
    for text, length in (("1", 1), ("1.5", 2), ("true", 3), ("", 4)):
        options = TraceOptions(where=(("turn", text),), timestamp_unit="s")
        assert [row[1] for row in rows(open_trace(path, options))] == [length]
    for kind, held, text in (
        (pa.int64(), [2, 3], "3"), (pa.float64(), [2.0, 3.0], "3.0"), (pa.bool_(), [True, False], "false"),
        (pa.decimal128(5, 2), [2, 3], "3.00"), (pa.dictionary(pa.int8(), pa.string()), ["a", "b"], "b"),
    ):  # fmt: skip
        table = pa.table(
            {"timestamp": [0, 1], "input_length": [1, 2], "output_length": [1, 1], "turn": pa.array(held, kind)}
        )
        pq.write_table(table, tmp_path / "t.parquet")
        trace = open_trace(tmp_path / "t.parquet", TraceOptions(where=(("turn", text),), timestamp_unit="s"))
        assert rows(trace) == [(0.0, 2, 1)]


def test_a_value_in_an_object_is_named_with_dots(write: Write) -> None:
    """So are lengths; a key that has a dot of its own goes first."""
    lines = [
        {"timestamp": 0, "tokens": {"in": 5, "out": 6}, "user": {"tier": {"name": "free"}}},
        {"timestamp": 1, "tokens": {"in": 7, "out": 8}, "user": {"tier": {"name": "paid"}}},
        {"timestamp": 2, "tokens": {"in": 9, "out": 9}, "user": None},
        {"timestamp": 3, "tokens": {"in": 1, "out": 1}, "user.tier.name": "paid", "user": {"tier": 1}},
    ]
    path = write(*map(json.dumps, lines), name="t.jsonl")
    options = TraceOptions(
        input_length_column="tokens.in", output_length_column="tokens.out", timestamp_unit="s",
        where=(("user.tier.name", "paid"),),
    )  # fmt: skip
    assert rows(open_trace(path, options)) == [(0.0, 7, 8), (2.0, 1, 1)]


# --- what is said


def test_a_column_that_is_not_there_is_one_line_with_the_nearest(write: Write) -> None:
    path = write(MODEL, "0,1,1,a")
    with pytest.raises(
        InputError, match=r"no column Modle to filter by \(--where\); did you mean model\?; it has timestamp,"
    ) as caught:
        open_trace(path, TraceOptions(where=(("Modle", "a"),)))
    assert "\n" not in str(caught.value)


def test_a_value_that_is_not_there_is_one_line_with_the_nearest(write: Write) -> None:
    path = write(MODEL, "0,1,1,GPT-4", "1,1,1,ChatGPT", "2,1,1,")
    with pytest.raises(
        InputError,
        match=r"no row has model gpt-4: the file has model ChatGPT, GPT-4 \(--where\); did you mean GPT-4\?",
    ):
        open_trace(path, TraceOptions(where=(("model", "gpt-4"),), timestamp_unit="s"))


@pytest.mark.parametrize("column", ["input_length", "timestamp", "hash_ids"])
def test_what_is_replayed_as_a_number_is_none_to_select_by(write: Write, column: str) -> None:
    with pytest.raises(InputError, match=rf"column {column} holds numbers that are replayed, .* \(--where\)"):
        open_trace(write(MINIMAL + ",hash_ids", "0,1,1,[1]"), TraceOptions(where=((column, "1"),)))


def test_a_column_that_comes_twice_is_none_to_select_by(write: Write) -> None:
    with pytest.raises(InputError, match="column model comes 2 times"):
        open_trace(write(MODEL + ",model", "0,1,1,a,b"), TraceOptions(where=(("model", "a"),)))


# --- fingerprints


def test_a_selection_is_in_the_fingerprint_and_leaves_others_as_they_were(write: Write) -> None:
    path = write(MODEL, "0,1,1,a", "1,1,1,a")
    plain = TraceOptions(timestamp_unit="s")
    assert not {"where", "time_origin"} & plain.identity().keys()
    chosen = replace(plain, where=(("model", "a"),))
    prints = [
        trace_plan(open_trace(path, options)).fingerprint
        for options in (plain, chosen, replace(chosen, time_origin="trace"))
    ]
    assert len(set(prints)) == 3


def test_options_go_to_the_process_that_surveys_and_come_back() -> None:
    options = TraceOptions(where=(("model", "a"), ("type", "")), time_origin="trace")
    assert TraceOptions(**orjson.loads(orjson.dumps(options.identity()))) == options


def test_lengths_are_drawn_of_the_selected_rows(write: Write) -> None:
    path = write("input_length,output_length,model", "1,2,a", "3,4,b")
    source = read_pairs(path, TraceOptions(where=(("model", "b"),)))
    assert "1 rows" in source.line
