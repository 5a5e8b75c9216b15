"""Formats of traces: the same rows from each, and what is said of what cannot be read."""

from __future__ import annotations

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from traces import MINIMAL, PUBLISHED, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.sourcedigest import DIGEST_WHOLE_BYTES, source_digest
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace


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
