"""No bytes make the trace readers raise anything but InputError."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thorough import examples

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.reading import FORMATS
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

CSV = b"input_length,output_length,latency,timestamp,architecture,scale\n" + b"".join(
    b"%d,%d,0.1,%d,Dense,<10B\n" % (i + 1, i % 5, i * 100_000) for i in range(20)
)
DATES = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + b"".join(
    b"2023-11-16 18:17:%02d.9799600,%d,3\r\n" % (i, i + 1) for i in range(20)
)
JSONL = b"".join(
    json.dumps({"timestamp": i, "input_length": 5, "output_length": 6, "hash_ids": [1]}).encode() + b"\n"
    for i in range(20)
)
SESSIONS = b"".join(
    json.dumps(
        {
            "session_id": "s",
            "turns": [
                {
                    "turn_id": "t",
                    "llm_calls": [
                        {
                            "timestamp": f"2026-06-01T00:00:{i:02d}Z",
                            "model": "A",
                            "tokens": {"prompt": 5, "completion": 6},
                        }
                    ],
                }
            ],
        }
    ).encode()
    + b"\n"
    for i in range(20)
)


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    numbers = pa.array(range(1, 21))
    pq.write_table(pa.table({"timestamp": numbers, "input_length": numbers, "output_length": numbers}), sink)
    return bytes(sink.getvalue())


SEEDS = {
    ".csv": [CSV, DATES],
    ".csv.gz": [gzip.compress(CSV, mtime=0)],
    ".csv.zst": [zstandard.compress(CSV)],
    ".jsonl": [JSONL, SESSIONS],
    ".jsonl.gz": [gzip.compress(JSONL, mtime=0)],
    ".jsonl.zst": [zstandard.compress(JSONL)],
    ".parquet": [parquet()],
}
NASTY = [
    b"", b",", b"\n", b"\r", b'"', b"\0", b"nan", b"inf", b"-1", b"1e999", b"9" * 40, b"0x1", b"True", b"null", b"{", b"]",
    b"\xff", b"\xef\xbb\xbf", b"2023-01-01", b"2023-01-01T00:00:00Z", b"9999-12-31 23:59:59.9999999", b" ", b"1,2", b"#",
    b"-9223372036854775809", b"\xc2\xa0", b"\xd9\xa3", b"1_0", b";", b"1970-01-01 00:00:00+99:99",
    b'"turns":[],', b'{"a":' * 600,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 5, 50]))
        data = data[:start] + draw(st.one_of(st.sampled_from(NASTY), st.binary(max_size=8))) + data[start + length :]
    return data


OPTIONS = st.sampled_from(
    [
        TraceOptions(timestamp_unit="us"),
        TraceOptions(),
        TraceOptions(scale="lt10B", below_one="clamp", max_model_len=10),
        TraceOptions(where=(("scale", "<10B"),), time_origin="trace"),
        TraceOptions(where=(("latency", "0.1"), ("architecture", "Dense")), timestamp_unit="us"),
        TraceOptions(start_at_s=1.0, duration_s=1.0, spread_within_s=0.5, max_gap_s=0.1, missing_timestamp="error"),
    ]
)


@pytest.mark.parametrize("suffix", FORMATS)
@settings(deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_read_or_refused(tmp_path: Path, suffix: str, data: st.DataObject):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(data.draw(st.one_of(mutated(SEEDS[suffix]), st.binary(max_size=200))))
    options = data.draw(OPTIONS)
    try:
        trace = open_trace(path, options, chunk_rows=8, memory_rows=data.draw(st.sampled_from([5, 1000])))
        kept = sum(len(rows) for rows in trace.blocks())
        survey = trace.read_survey()
    except InputError:
        return
    assert kept == survey.kept
    assert survey.rows == survey.kept + survey.filtered + survey.outside_slice + sum(survey.dropped.values())
