"""Reading recorded traces: columns, policies, order and slices, and the law of it all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples
from traces import MINIMAL, PUBLISHED, plainly, read, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

# --- columns


def test_columns_are_named_by_flags(write):
    options = TraceOptions(
        timestamp_column="at", input_length_column="in", output_length_column="out", timestamp_unit="s"
    )
    assert rows(open_trace(write("x,out,at,in", "0,1,5,2", "0,3,6,4"), options)) == [(0.0, 2, 1), (1.0, 4, 3)]


def test_a_missing_column_is_named_with_its_flag_and_the_columns_there_are(write):
    with pytest.raises(InputError, match=r"no column input_length .*\(--input-length-column\); it has timestamp, foo"):
        open_trace(write("timestamp,foo", "1,2"))


def test_a_duplicated_column_is_an_error(write):
    with pytest.raises(InputError, match="column output_length comes 2 times"):
        open_trace(write(MINIMAL + ",output_length", "1,2,3,4"))


# --- policies


def test_each_dropped_row_has_one_reason_by_precedence(write):
    trace = open_trace(
        write(MINIMAL, "0,5,5", ",0,5", ",9,9", "1,0,50", "2,9,9", "3,5,4"),
        TraceOptions(max_model_len=10, beyond_max_model_len="drop"),
    )
    assert trace.survey.dropped == {"missing_timestamp": 2, "below_one": 1, "beyond_max_model_len": 1}
    assert rows(trace) == [(0.0, 5, 5), (0.003, 5, 4)]


def test_clamping_raises_to_one_and_cuts_to_the_context(write):
    trace = open_trace(
        write(MINIMAL, "0,0,-1", "1,4,9", "2,15,3", "3,9,1", "4,10,0"),
        TraceOptions(below_one="clamp", max_model_len=10),
    )
    assert [row[1:] for row in rows(trace)] == [(1, 1), (4, 6), (9, 1), (9, 1), (9, 1)]
    assert trace.survey.clamped == {"below_one": 2, "beyond_max_model_len": 3}


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"missing_timestamp": "error"}, r"row 2 \(line 4\), column timestamp: no value \(--missing-timestamp drop"),
        ({"below_one": "error"}, r"row 3 \(line 5\), column output_length: 0 is below 1 \(--below-one drop or clamp\)"),
        (
            {"max_model_len": 50, "beyond_max_model_len": "error"},
            r"row 4 \(line 6\), column input_length: 99 and 1 output tokens exceed --max-model-len 50",
        ),
    ],
)
def test_a_policy_of_error_names_the_row_and_the_way_out(write, options, place):
    path = write(MINIMAL, "0,1,1", "", ",1,1", "1,1,0", "2,99,1")
    with pytest.raises(InputError, match=place):
        open_trace(path, TraceOptions(**options))


def test_filters_take_every_spelling_and_are_counted_apart(write):
    path = write(
        PUBLISHED,
        "1,1,0,0,Dense,<10B",
        "2,2,0,1000000,MoE,>100B",
        "3,3,0,2000000,moe,gt100B",
        "4,0,0,3000000,Dense,lt10B",
        "5,5,0,,Dense,10-30B",
        "6,6,0,4000000,,",
    )
    moe = open_trace(path, TraceOptions(architecture="MoE", scale=">100B"))
    assert rows(moe) == [(0.0, 2, 2), (1.0, 3, 3)]
    assert (moe.survey.filtered, sum(moe.survey.dropped.values())) == (4, 0)
    assert open_trace(path, TraceOptions(scale="<10b")).survey.kept == 1
    with pytest.raises(
        InputError, match=r"no row has architecture MoE and scale 10to30B: the file has .*Dense.*10-30B"
    ):
        open_trace(path, TraceOptions(architecture="MoE", scale="10to30B"))


def test_filtering_by_a_column_that_is_not_there_is_an_error(write):
    with pytest.raises(InputError, match=r"no column architecture to filter by \(--architecture\)"):
        open_trace(write(MINIMAL, "1,2,3"), TraceOptions(architecture="MoE"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestamp_unit": "h"}, "--timestamp-unit is one of auto, s, ms, us, ns, got 'h'"),
        ({"missing_timestamp": "clamp"}, "--missing-timestamp is one of drop, error, got 'clamp'"),
        ({"below_one": "x"}, "--below-one is one of"),
        ({"beyond_max_model_len": "x"}, "--beyond-max-model-len is one of"),
        ({"max_model_len": 1}, r"at least 2 tokens, got 1 \(--max-model-len\)"),
        ({"start_at_s": -1.0}, r"got -1.0 \(--start-at\)"),
        ({"duration_s": 0.0}, r"got 0.0 \(--duration\)"),
        ({"spread_within_s": math.inf}, r"got inf \(--spread-within\)"),
        ({"max_gap_s": math.nan}, r"got nan \(--max-gap\)"),
        ({"seed": -1}, r"got -1 \(--seed\)"),
    ],
)
def test_options_are_checked_on_construction(options, message):
    with pytest.raises(InputError, match=message):
        TraceOptions(**options)


# --- order, slice, long files


def test_unsorted_rows_are_sorted_stably(write):
    trace = open_trace(write(MINIMAL, "2000,1,1", "1000,2,1", "2000,3,1", "1000,4,1", "0,5,1"))
    assert rows(trace) == [(0.0, 5, 1), (1.0, 2, 1), (1.0, 4, 1), (2.0, 1, 1), (2.0, 3, 1)]


def test_a_slice_counts_from_the_first_kept_row_and_starts_at_zero(write):
    path = write(MINIMAL, ",1,1", "10000,2,0", "11000,3,1", "12000,4,1", "13000,5,1", "14000,6,1")
    trace = open_trace(path, TraceOptions(start_at_s=1.0, duration_s=2.0))
    assert rows(trace) == [(0.0, 4, 1), (1.0, 5, 1)]
    assert (trace.survey.outside_slice, trace.survey.span_s) == (2, 1.0)


def test_an_empty_slice_says_what_the_trace_spans(write):
    path = write(MINIMAL, "0,1,1", "7200000,1,1")
    with pytest.raises(InputError, match=r"from 90 s to 100 s holds none of its 2 usable rows, which span 2.0 h"):
        open_trace(path, TraceOptions(start_at_s=90, duration_s=10))


def test_a_long_file_is_streamed_and_surveyed_when_read_through(write):
    path = write(MINIMAL, *(f"{1000 * i},1,{i % 3}" for i in range(100)))
    trace = open_trace(path, chunk_rows=7, memory_rows=20)
    assert trace.survey is None
    assert not trace.opening.complete
    assert trace.opening.timestamp_unit == "ms"
    assert "first 35 rows of a longer file" in trace.opening.line()
    held = open_trace(path)
    assert rows(trace) == rows(held)
    assert trace.survey == held.survey
    assert open_trace(path, chunk_rows=7, memory_rows=20).read_survey() == held.survey


def test_a_slice_of_a_long_file_is_not_read_past_its_end(write):
    path = write(MINIMAL, *(f"{1000 * i},1,1" for i in range(100)), "text,1,1")
    trace = open_trace(path, TraceOptions(duration_s=30), chunk_rows=10, memory_rows=10)
    assert len(rows(trace)) == 30
    assert trace.survey is None
    with pytest.raises(InputError, match="row 101"):
        trace.read_survey()


@pytest.mark.parametrize("row", [5, 95])
def test_an_unsorted_long_file_names_the_row_and_the_command_that_sorts(write, row):
    times = list(range(100))
    times[row] = 0
    path = write(MINIMAL, *(f"{time},1,1" for time in times))
    with pytest.raises(InputError, match=rf"row {row + 1} \(line {row + 2}\) is earlier.*`fineserve trace convert"):
        read(open_trace(path, chunk_rows=10, memory_rows=20))


# --- laws


ROWS = st.lists(
    st.tuples(
        st.one_of(st.just(""), st.integers(0, 50).map(str), st.floats(0, 50).map(repr)),
        st.integers(-1, 30).map(str),
        st.integers(-1, 30).map(str),
    ),
    max_size=60,
)
OPTIONS = st.builds(
    TraceOptions,
    below_one=st.sampled_from(["drop", "clamp"]),
    beyond_max_model_len=st.sampled_from(["drop", "clamp"]),
    max_model_len=st.sampled_from([None, 2, 20]),
    start_at_s=st.sampled_from([0.0, 0.01]),
    duration_s=st.sampled_from([None, 0.02]),
    timestamp_unit=st.just("ms"),
)


@given(ROWS, OPTIONS, st.integers(1, 70), st.sampled_from([3, 1000]))
@settings(deadline=None, max_examples=examples(60))
def test_any_trace_is_what_the_plain_way_makes_of_it_and_every_row_is_counted(
    tmp_path_factory, trace_rows, options, chunk_rows, memory_rows
):
    if memory_rows < 1000:
        trace_rows = sorted(trace_rows, key=lambda row: float(row[0] or 0))
    path = tmp_path_factory.mktemp("law") / "t.csv"
    path.write_text("\n".join([MINIMAL, *map(",".join, trace_rows)]) + "\n")
    expected, reasons = plainly(trace_rows, options)
    if not expected:
        with pytest.raises(InputError):
            read(open_trace(path, options, chunk_rows=chunk_rows, memory_rows=memory_rows))
        return
    trace = open_trace(path, options, chunk_rows=chunk_rows, memory_rows=memory_rows)
    actual = read(trace)
    assert [tuple(row[1:]) for row in expected] == [row[1:] for row in rows(trace)]
    # the parser's floats are right to the last place but one
    np.testing.assert_allclose(actual.time_s, [row[0] for row in expected], rtol=1e-12, atol=1e-12)
    survey = trace.read_survey()
    assert survey.rows == len(trace_rows)
    assert survey.rows == survey.kept + survey.filtered + survey.outside_slice + sum(survey.dropped.values())
    assert {reason: reasons[reason] for reason in survey.dropped} == survey.dropped
    assert survey.outside_slice == reasons["outside_slice"]
