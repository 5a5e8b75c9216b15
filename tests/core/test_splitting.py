"""The values of a column, and the mix of a stream for each: together they are the trace."""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples
from traces import MINIMAL, rows

from fineserve_shapes import options
from fineserve_shapes.errors import InputError
from fineserve_shapes.tracetools import streams
from fineserve_shapes.values import Values
from fineserve_shapes.workload.traces import splitting
from fineserve_shapes.workload.traces.selection import parse_where
from fineserve_shapes.workload.traces.splitting import Value, split_values
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

Write = Callable[..., Path]
MODEL = MINIMAL + ",model"

LABELS = st.one_of(
    st.sampled_from(
        ["007", "1e5", "", "a", "A", "a-2", "a 2", "x,y", 'say "so"', " lead", "total", "Qwen/Qwen3-32B", "模型", "1.0"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=8),
)
ROWS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.integers(1, 9), LABELS), min_size=1, max_size=40)


def written(path: Path, requests: list[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([MODEL.split(","), *requests])
    return path


@given(requests=ROWS, chunk_rows=st.integers(1, 50))
@settings(deadline=None, max_examples=examples(80))
def test_streams_of_a_split_together_are_the_trace(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, int, int, str]], chunk_rows: int
) -> None:
    """Each value has the rows, times and mean lengths that plain counting gives; the mix is TOML, whose options say the
    same again."""
    path = written(tmp_path_factory.mktemp("law") / "t.csv", requests)
    given_options = TraceOptions(timestamp_unit="s")
    usable = [request for request in requests if request[1]]
    if not usable:
        with pytest.raises(InputError):
            split_values(path, given_options, "model", chunk_rows=chunk_rows)
        return
    values = split_values(path, given_options, "model", chunk_rows=chunk_rows)
    zero = min(time for time, *_ in requests)
    for value in values:
        mine = [request for request in usable if request[3] == value.value]
        assert value.rows == sum(1 for request in requests if request[3] == value.value)
        assert value.usable == len(mine)
        if mine:
            times = [time - zero for time, *_ in mine]
            assert (value.first_s, value.last_s) == (min(times), max(times))
            assert value.input_tokens == pytest.approx(sum(request[1] for request in mine) / len(mine))
            assert value.output_tokens == pytest.approx(sum(request[2] for request in mine) / len(mine))
    assert {value.value for value in values} == {request[3] for request in requests}

    if not any(value.value and value.usable for value in values):
        with pytest.raises(InputError, match="there is no stream for a mix"):
            streams.mix(path, "model", values, given_options, {})
        return
    read = tomllib.loads(streams.mix(path, "model", values, given_options, {"timestamp_unit": "s"}))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name) and name != "total" for name in read["streams"])
    parts = []
    for table in read["streams"].values():
        assert table.pop("kind") == "replay"
        own = Values(SimpleNamespace(**read["defaults"], **table))
        parts += rows(open_trace(own.text("--request-trace-csv") or "", options.trace_options(own)))
    whole = rows(open_trace(path, replace(given_options, time_origin="trace")))
    without = [(float(time - zero), inputs, outputs) for time, inputs, outputs, label in usable if not label]
    assert sorted(parts + without) == sorted(whole)


@pytest.mark.parametrize("label", ["00", "007", "1e5", "-0", "+5", "Infinity", "nan", "True"])
def test_a_value_that_reads_like_a_number_is_a_text(write: Write, label: str) -> None:
    """Also where all values of the column do."""
    path = write(MODEL, f"0,1,1,{label}", f"1,2,1,{label}")
    (value,) = split_values(path, TraceOptions(timestamp_unit="s"), "model")
    assert (value.value, value.rows) == (label, 2)
    chosen = TraceOptions(timestamp_unit="s", where=(("model", label),))
    assert rows(open_trace(path, chosen)) == [(0.0, 1, 1), (1.0, 2, 1)]


def test_other_conditions_select_what_is_split_and_stay_in_the_mix(write: Write) -> None:
    path = write(MODEL + ",type", "0,1,1,a,text", "1,2,1,b,text", "2,3,1,a,image", "3,4,1,b,text")
    chosen = TraceOptions(timestamp_unit="s", where=(("type", "text"),))
    values = split_values(path, chosen, "model")
    assert values == [
        Value("b", 2, 2, 1.0, 3.0, 3.0, 1.0),
        Value("a", 1, 1, 0.0, 0.0, 1.0, 1.0),
    ]
    assert values[0].rate_rps == 0.5
    assert values[1].rate_rps is None
    read = tomllib.loads(streams.mix(path, "model", values, chosen, {"where": "type=text"}))
    assert "where" not in read["defaults"]
    assert parse_where(read["streams"]["b"]["where"]) == (("type", "text"), ("model", "b"))


def test_values_without_a_usable_row_and_rows_without_a_value_are_said(write: Write) -> None:
    path = write(MODEL, "0,1,1,a", "1,0,1,b", "2,3,1,", "3,0,1,")
    chosen = TraceOptions(timestamp_unit="s")
    values = split_values(path, chosen, "model")
    assert [(value.value, value.rows, value.usable) for value in values] == [("a", 1, 1), ("b", 1, 0), ("", 2, 1)]
    text = streams.text("model", values)
    assert "2 values, 2 usable rows" in text
    assert "without a model: 2 rows, of which 1 usable" in text
    mix = streams.mix(path, "model", values, chosen, {})
    assert "# In no stream, since no row of it is usable: b\n" in mix
    assert "# In no stream, since they have no model: 1 usable row\n" in mix
    assert list(tomllib.loads(mix)["streams"]) == ["a"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("Modle", r"no column Modle to split by \(--by\); did you mean model\?"),
        ("timestamp", r"column timestamp holds numbers that are replayed, none to split by \(--by\)"),
    ],
)
def test_a_column_that_is_none_to_split_by_is_one_line(write: Write, column: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_values(write(MODEL, "0,1,1,a"), TraceOptions(timestamp_unit="s"), column)


def test_a_column_with_a_value_for_each_row_is_none_to_split_by(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "MOST_VALUES", 10)
    path = write(MODEL, *(f"{row},1,1,{row}" for row in range(20)))
    with pytest.raises(InputError, match=r"column model has more than 10 values, too many to split by \(--by\)"):
        split_values(path, TraceOptions(timestamp_unit="s"), "model", chunk_rows=5)


def test_the_pass_over_the_file_is_lazy(write: Write) -> None:
    """What watches sees chunk after chunk, before the next is read."""
    path = write(MODEL, *(f"{row},1,1,a" for row in range(20)), "20,x,1,a")
    seen = []

    def watch(rows: Any) -> Any:
        for part in rows:
            seen.append(len(part))
            yield part

    with pytest.raises(InputError, match="row 21"):
        split_values(path, TraceOptions(timestamp_unit="s"), "model", chunk_rows=10, watch=watch)
    assert seen == [10, 10]
