"""CSV files: every record has the fields that the header names, and other dialects are read or explained."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES
from traces import MINIMAL, PUBLISHED, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.csvfile import MISSING
from fineserve_shapes.workload.traces.csvrecords import LONGEST_RECORD_BYTES, CountedRecords
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

Write = Callable[..., Path]

# --- fields of a record

FIELD = st.sampled_from(["", "1", "-2.5", "a b", "x,y", "two\nlines", 'say "so"', '5" disk', " ", "é"])
TABLES = st.lists(st.lists(FIELD, min_size=1, max_size=5), max_size=12)


def read_in_pieces(content: bytes, sizes: list[int]) -> CountedRecords:
    """All of it, read with these sizes, and then in one piece."""
    counted = CountedRecords(io.BytesIO(content), b",", 3)
    found = b"".join(counted.read(size) for size in sizes)
    while data := counted.read(64):
        found += data
    assert found == content
    return counted


@given(
    TABLES,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.lists(st.integers(1, 9), max_size=60),
    st.booleans(),
)
def test_the_first_record_that_does_not_fit_is_found_whatever_the_pieces(table, end, quoted, sizes, ended) -> None:
    """The standard library's reader, one record after the other, says which it is. Blank lines are no rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([["a", "b", "c"], *table])
    content = text.getvalue() if ended else text.getvalue().removesuffix(end)
    records = [record for record in csv.reader(io.StringIO(content, newline="")) if record and record != [" "]]
    expected = next(
        (
            (row, len(record))
            for row, record in enumerate(records[1:])
            if len(record) < 3 or any(map(str.strip, record[3:]))
        ),
        None,
    )
    wrong = read_in_pieces(content.encode(), sizes).wrong
    assert (None if wrong is None else (wrong.row, wrong.fields)) == expected


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize(
    ("row", "fields"), [("200,1,200,7", 4), ("5,5,5,,7", 5), ("5,5", 2), ("5", 1), ('"5,5",5', 2), ("(3 rows)", 1)]
)
def test_a_record_with_other_fields_than_the_header_is_an_error_with_its_place(
    tmp_path: Path, suffix: str, row: str, fields: int
) -> None:
    """In the first chunk and in a later one; below blank lines, which are no rows."""
    compress = gzip.compress if suffix.endswith(".gz") else bytes
    for before in (3, 50_000):
        content = "\n".join([MINIMAL, "", *(f"{time},1,1" for time in range(before)), "  ", row, "99999,1,1", ""])
        path = tmp_path / f"t{suffix}"
        path.write_bytes(compress(content.encode()))
        place = rf"row {before + 1} \(line {before + 4}\) has {fields} fields? where the header names 3: '{row}'"
        with pytest.raises(InputError, match=place.replace("(3", r"\(3").replace("s)'", r"s\)'")):
            open_trace(path, chunk_rows=1000)


def test_errors_of_both_signs_do_not_cancel(write: Write) -> None:
    with pytest.raises(InputError, match=r"row 2 \(line 3\) has 4 fields"):
        open_trace(write(MINIMAL, "0,1,1", "1,1,1,1", "2,1", "3,1,1"))


@pytest.mark.parametrize("end", [",", ",,", ", ,"])
def test_empty_fields_at_the_end_are_fine(write: Write, end: str) -> None:
    expected = [(0.0, 1, 2), (1.0, 3, 4)]
    assert rows(open_trace(write(MINIMAL, "0,1,2" + end, "1000,3,4"))) == expected
    assert rows(open_trace(write(MINIMAL + end, "0,1,2" + end, "1000,3,4"))) == expected


def test_a_row_beyond_the_slice_is_not_asked_for_its_fields(write: Write) -> None:
    path = write(MINIMAL, *(f"{1000 * time},1,1" for time in range(100)), "1,2")
    trace = open_trace(path, TraceOptions(duration_s=30), chunk_rows=10, memory_rows=10)
    assert len(rows(trace)) == 30
    with pytest.raises(InputError, match="row 101"):
        trace.read_survey()


def test_lengths_alone_are_counted_too(write: Write) -> None:
    from fineserve_shapes.workload.recordedpairs import read_pairs

    with pytest.raises(InputError, match=r"row 2 \(line 3\) has 3 fields"):
        read_pairs(write("input_length,output_length", "1,1", "1,5,1"), TraceOptions())


def test_a_quote_left_open_is_not_read_without_end(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(MINIMAL.encode() + b'\n0,1,1\n"1,1,1\n' + b"2,1,1\n" * (LONGEST_RECORD_BYTES // 4))
    with pytest.raises(
        InputError, match=r"row 2.* does not end, is a quote left open\? It begins '\"1,1,1|EOF inside string"
    ):
        open_trace(path)


# --- other dialects


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_separator_is_known_where_the_header_has_no_other(write: Write, separator: str) -> None:
    lines = (MINIMAL, "0,1,2", '1000,"3",4')
    assert rows(open_trace(write(*(line.replace(",", separator) for line in lines)))) == [(0.0, 1, 2), (1.0, 3, 4)]
    with pytest.raises(InputError, match=r"row 1 \(line 2\) has 4 fields"):
        open_trace(write(*(line.replace(",", separator) for line in (MINIMAL, "0,1,2,3"))))


def test_what_stands_for_a_missing_number_is_what_pandas_takes_for_one(write: Write) -> None:
    """In a column of texts it is a text."""
    assert set(MISSING) == STR_NA_VALUES
    path = write(
        MINIMAL + ",model", *(f"{text},1,{number},{text}" for number, text in enumerate(MISSING, 1)), "5,1,99,x"
    )
    trace = open_trace(path, TraceOptions(timestamp_unit="s"))
    assert (rows(trace), trace.survey.dropped["missing_timestamp"]) == ([(0.0, 1, 99)], len(MISSING))
    for text in MISSING:
        with pytest.raises(InputError, match="none of its 20 rows can be used: 1 missing_timestamp, 19 filtered out"):
            open_trace(path, TraceOptions(timestamp_unit="s", where=(("model", text),)))


def test_a_decimal_comma_between_semicolons_is_named(write: Write) -> None:
    path = write(MINIMAL.replace(",", ";"), "0,5;1;1")
    with pytest.raises(
        InputError, match=r"row 1 \(line 2\), column timestamp: '0,5' is no number \(it takes a decimal point\)"
    ):
        open_trace(path)


def test_blanks_around_names_are_none_of_them(write: Write) -> None:
    assert rows(open_trace(write(" timestamp , input_length,output_length\t", "0,1,2"))) == [(0.0, 1, 2)]
    assert open_trace(write(PUBLISHED.replace(",", ", "), "1,1,0,0,Dense,<10B")).survey.timestamp_unit == "us"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "Timestamp,Input_Length,Output Length",
            (
                "the header is 'Timestamp,Input_Length,Output Length'; is it --input-length-column Input_Length"
                " --output-length-column 'Output Length'?"
            ),
        ),
        ("timestamp input_length output_length", "with neither a comma nor ; or tab or | between names"),
        ("timestamp;input_length|output_length", "the header is 'timestamp;input_length|output_length'"),
        ("0,10,20", "the header is '0,10,20'"),
    ],
)
def test_a_header_that_is_not_understood_is_shown_with_what_may_be_meant(
    write: Write, header: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        open_trace(write(header, "0,1,2"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
