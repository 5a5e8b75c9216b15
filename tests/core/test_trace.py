"""Reading recorded traces: columns, policies, formats, and what is said of what cannot be used."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples
from traces import AZURE, DENSE, MINIMAL, MOONCAKE, PUBLISHED, read, real, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.sourcedigest import DIGEST_WHOLE_BYTES, source_digest
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


# --- formats


@pytest.fixture
def csv_text() -> str:
    return "\n".join([PUBLISHED, *(f"{i + 1},{i % 4},0.1,{i * 1e5},Dense,<10B" for i in range(50))]) + "\n"


def test_every_format_gives_the_same_rows(csv_text, tmp_path):
    records = list(csv.DictReader(csv_text.splitlines()))
    kinds = {"latency": float, "timestamp": float, "input_length": int, "output_length": int}
    values = [{name: kinds.get(name, str)(value) for name, value in record.items()} for record in records]
    (tmp_path / "t.csv").write_text(csv_text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(csv_text.encode()))
    (tmp_path / "t.csv.zst").write_bytes(zstandard.compress(csv_text.encode()))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in values))
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "t.parquet")
    expected = rows(open_trace(tmp_path / "t.csv"))
    assert len(expected) == 37
    for name in ("t.csv.gz", "t.csv.zst", "t.jsonl", "t.parquet"):
        for options in (TraceOptions(), TraceOptions(architecture="dense", scale="lt10B")):
            trace = open_trace(tmp_path / name, options, chunk_rows=8)
            assert rows(trace) == expected, name
            assert trace.survey.dropped["below_one"] == 13


def test_bom_crlf_quotes_blank_lines_and_float_lengths_are_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbf"timestamp",input_length,output_length\r\n"0","10",2.0\r\n\r\n1000, 30,4e0\r\n')
    assert rows(open_trace(path)) == [(0.0, 10, 2), (1.0, 30, 4)]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_compressed_file_is_an_error_and_no_shorter_trace(csv_text, tmp_path, suffix):
    compress = gzip.compress if suffix == ".gz" else zstandard.compress
    path = tmp_path / f"t.csv{suffix}"
    path.write_bytes(compress(csv_text.encode())[:-30])
    with pytest.raises(InputError, match="cannot be read, it may be damaged"):
        open_trace(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.jsonl", b"\n\n", "the file is empty"),
        ("t.parquet", b"", "the file is empty"),
        ("t.parquet", b"PAR1 nonsense", "cannot be read, it may be damaged"),
        ("t.csv.gz", b"nonsense", "cannot be read, it may be damaged"),
        ("t.csv", bytes(range(256)), "no header in UTF-8 text"),
        ("t.csv", "timestamp,input_length\n".encode("utf-16"), "no header in UTF-8 text"),
        ("t.csv", f"{MINIMAL}\n".encode(), "it has no rows below its header"),
        ("t.csv", b"input_length,output_length,latency,timestamp,architecture,scale\n", "no rows below its header"),
        ("t.csv", f"{MINIMAL}\n,1,1\n1,0,1\n".encode(), "none of its 2 rows can be used: 1 missing_timestamp, 1 below"),
        ("t.csv", f"{MINIMAL}\n1,1,1\n\n2,ten,1\n".encode(), r"row 2 \(line 4\), column input_length: 'ten' is no number"),
        ("t.csv", f'{MINIMAL}\n1,"1,000",1\n'.encode(), r"row 1 \(line 2\), column input_length: '1,000' is no number"),
        ("t.csv", f"{MINIMAL}\n1,1,1\n2,1.5,1\n".encode(), r"row 2 \(line 3\), column input_length: 1.5 is no whole num"),
        ("t.csv", f"{MINIMAL}\n1,1,inf\n".encode(), r"row 1 \(line 2\), column output_length: inf is no length"),
        ("t.csv", f"{MINIMAL}\n1,1,1e30\n".encode(), r"row 1 \(line 2\), column output_length: 1e\+30 is no length"),
        ("t.csv", f"{MINIMAL}\n1,,1\n".encode(), r"row 1 \(line 2\), column input_length: no value where each row must"),
        ("t.csv", f"{MINIMAL}\n-inf,1,1\n".encode(), r"row 1 \(line 2\), column timestamp: -inf is no time"),
        ("t.csv", f'{MINIMAL}\n1,1,"1\n'.encode(), "EOF inside string"),
        ("t.csv", f"{MINIMAL}\n2023-01-01 00:00:00,1,1\nsoon,1,1\n".encode(), r"row 2 .*'soon' is no date-time"),
        ("t.jsonl", b'{"timestamp":0,"input_length":1,"output_length":1}\n[1]\n', "line 2 is no JSON object"),
        ("t.jsonl", b'{"timestamp":0,"input_length":1,"output_length":1}\n{"time', "line 2 is no JSON: "),
        ("t.jsonl", b'{"timestamp":0,"input_length":true,"output_length":1}', r"row 1 \(line 1\), .*True is no number"),
        ("t.txt", b"", "a trace is a file whose name ends in .csv, .csv.gz"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_has_a_message_of_one_line_that_names_the_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_trace(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_text_in_a_later_chunk_is_named_too(write):
    path = write(MINIMAL, *(f"{i},1,1" for i in range(30)), "30,x,1", "y,1,1")
    with pytest.raises(InputError, match=r"row 31 \(line 32\), column input_length: 'x' is no number"):
        open_trace(path, chunk_rows=10)


def test_a_text_column_of_a_parquet_file_is_no_number(tmp_path):
    table = pa.table({"timestamp": [0, 1], "input_length": ["1", "2"], "output_length": [1, 2]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column input_length holds string, not numbers"):
        open_trace(tmp_path / "t.parquet")


def test_a_missing_file_and_a_directory_are_errors(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        open_trace(tmp_path / "nope.csv")
    with pytest.raises(InputError, match="no file but a directory"):
        open_trace(tmp_path)


def test_the_digest_is_of_the_content(tmp_path):
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    assert source_digest(tmp_path / "a") == source_digest(tmp_path / "b") != source_digest(tmp_path / "c")


def test_the_digest_of_a_large_file_is_of_its_size_and_its_ends(tmp_path):
    def sparse(name: str, size: int, at: int) -> str:
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
            file.seek(at)
            file.write(b"x")
        return source_digest(tmp_path / name)

    size = DIGEST_WHOLE_BYTES + 100
    first = sparse("a", size, 0)
    assert first == sparse("b", size, 0)
    assert len({first, sparse("c", size, size - 1), sparse("d", size + 1, 0)}) == 3


# --- laws


Row = tuple[str, str, str]

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


def plainly(trace_rows: Sequence[Row], options: TraceOptions) -> tuple[list[tuple[float, int, int]], Counter[str]]:
    """The same by the plain csv way: one row after the other."""
    reasons: Counter[str] = Counter()
    kept = []
    for time, input_text, output_text in trace_rows:
        inputs, outputs = int(input_text), int(output_text)
        if time == "":
            reasons["missing_timestamp"] += 1
            continue
        if inputs < 1 or outputs < 1:
            if options.below_one == "drop":
                reasons["below_one"] += 1
                continue
            inputs, outputs = max(inputs, 1), max(outputs, 1)
        if options.max_model_len is not None and inputs + outputs > options.max_model_len:
            if options.beyond_max_model_len == "drop":
                reasons["beyond_max_model_len"] += 1
                continue
            inputs = min(inputs, options.max_model_len - 1)
            outputs = min(outputs, options.max_model_len - inputs)
        kept.append((float(time), inputs, outputs))
    kept.sort(key=lambda row: row[0])
    per_second = {"ms": 1e3, "us": 1e6}[options.timestamp_unit]
    timed = [((time - kept[0][0]) / per_second - options.start_at_s, *lengths) for time, *lengths in kept]
    end_s = math.inf if options.duration_s is None else options.duration_s
    inside = [row for row in timed if 0 <= row[0] < end_s]
    reasons["outside_slice"] = len(timed) - len(inside)
    return inside, reasons


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


# --- the real ones


@pytest.mark.realdata
@real(DENSE)
def test_the_published_trace_spans_8_hours_and_accounts_for_every_row():
    trace = open_trace(DENSE)
    survey = trace.survey
    assert (survey.rows, survey.kept) == (27_466, 21_043)
    assert survey.dropped == {"missing_timestamp": 6350, "below_one": 73, "beyond_max_model_len": 0}
    assert "27,466 rows, dropped 6,350 missing_timestamp, 73 below_one" in survey.line()
    assert "span 8.0 h, mean rate 0.7307/s; timestamps: us (the published FineServe form)" in survey.line()
    assert survey.warnings == ()


@pytest.mark.realdata
@real(DENSE)
def test_the_published_trace_read_in_milliseconds_is_warned_of():
    assert "--timestamp-unit" in open_trace(DENSE, TraceOptions(timestamp_unit="ms")).survey.warnings[0]


@pytest.mark.realdata
@real(DENSE)
@pytest.mark.parametrize("options", [{}, {"max_model_len": 4096, "below_one": "clamp", "start_at_s": 3600.0}])
def test_the_published_trace_is_what_the_plain_way_makes_of_it(options):
    with DENSE.open(newline="") as file:
        records = [(row["timestamp"], row["input_length"], row["output_length"]) for row in csv.DictReader(file)]
    expected, reasons = plainly(records, TraceOptions(timestamp_unit="us", **options))
    trace = open_trace(DENSE, TraceOptions(**options), chunk_rows=1000)
    assert rows(trace) == expected
    assert trace.survey.dropped["missing_timestamp"] == reasons["missing_timestamp"]
    assert trace.survey.dropped["below_one"] == reasons["below_one"]


@pytest.mark.realdata
@real(AZURE)
def test_the_azure_sample_needs_no_flag():
    survey = open_trace(AZURE).survey
    assert (survey.rows, survey.kept) == (8819, 8819)
    assert survey.span_s == pytest.approx(3435.948056, abs=1e-6)


@pytest.mark.realdata
@real(MOONCAKE)
def test_the_mooncake_sample_needs_no_flag():
    survey = open_trace(MOONCAKE).survey
    assert (survey.rows, survey.kept, survey.span_s) == (3000, 3000, 987.0)
