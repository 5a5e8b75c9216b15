"""Writing: rows of a trace into a file of any of the formats, in FineServe's form and microseconds."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.forms import PREFIX_COLUMN
from fineserve_shapes.workload.traces.parquetfile import BLOCK_KEY, CLEAN_KEY, UNIT_KEY
from fineserve_shapes.workload.traces.reading import FORMATS

PER_SECOND = 1e6
MAX_SPAN_S = 9e12  # more microseconds are no 64-bit number
COLUMNS = ("input_length", "output_length", "latency", "timestamp", "architecture", "scale")
_TYPES = {
    "input_length": pa.int64(), "output_length": pa.int64(), "latency": pa.float64(), "timestamp": pa.int64(),
    "architecture": pa.string(), "scale": pa.string(), PREFIX_COLUMN: pa.list_(pa.int64()),
}  # fmt: skip
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(slots=True)
class TraceWriter:
    """Takes rows in time order. sink: takes tables of one schema."""

    sink: Any
    schema: pa.Schema
    rows: int = 0
    first_tick: int = 0
    span_s: float = 0.0

    def write(self, time_s: FloatArray, rest: pa.Table) -> None:
        """Times in seconds, shape (n,), ascending over all calls, and the other columns; one that is not there is empty."""
        if not len(time_s):
            return
        if time_s[-1] > MAX_SPAN_S:
            raise InputError(
                f"the trace spans {time_s[-1]:g} s, too much for a file in microseconds (--timestamp-unit)"
            )
        ticks = np.rint(time_s * PER_SECOND).astype(np.int64)
        columns = []
        for field in self.schema:
            if field.name == "timestamp":
                columns.append(pa.array(ticks))
            elif field.name in rest.column_names:
                columns.append(rest[field.name].cast(field.type))
            else:
                columns.append(pa.nulls(len(ticks), field.type))
        self.sink.write(pa.table(columns, schema=self.schema))
        if not self.rows:
            self.first_tick = int(ticks[0])
        self.rows += len(ticks)
        self.span_s = (int(ticks[-1]) - self.first_tick) / PER_SECOND


class _TraceJsonLines:
    """Tables as one object a line; what is missing is null, since the keys tell the form of a trace."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, table: pa.Table) -> None:
        self._stream.write(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in table.to_pylist()))


class _TraceCsv:
    """Tables as text; lists as JSON."""

    def __init__(self, stream: Any, schema: pa.Schema) -> None:
        flat = [field.with_type(pa.string()) if pa.types.is_list(field.type) else field for field in schema]
        self._schema = pa.schema(flat)
        options = pyarrow.csv.WriteOptions(quoting_style="needed")
        # the header is ours: Arrow quotes every name in it
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(self._schema.names)
        stream.write(header.getvalue().encode())
        options.include_header = False
        self._writer = pyarrow.csv.CSVWriter(stream, self._schema, write_options=options)

    def write(self, table: pa.Table) -> None:
        for number, field in enumerate(table.schema):
            if pa.types.is_list(field.type):
                texts = [None if ids is None else orjson.dumps(ids).decode() for ids in table[field.name].to_pylist()]
                table = table.set_column(number, field.name, pa.array(texts, pa.string()))
        self._writer.write(table.cast(self._schema))

    def close(self) -> None:
        self._writer.close()


@contextlib.contextmanager
def trace_writer(path: Path, *, block_tokens: int | None = None, texts: Iterable[str] = ()) -> Iterator[TraceWriter]:
    """A writer for a file, by its name; the file appears when all is written, and not at all if that fails.

    block_tokens: how many tokens stand behind each id of a shared block, if rows have such ids. A Parquet file says so
    in its metadata, and what its unit is, that its rows are in time order and clean, and how many they are. texts: further
    columns.

    Raises InputError where the file cannot be written or its name says no format.
    """
    name = path.name.lower()
    ending = next((ending for ending in sorted(FORMATS, key=len, reverse=True) if name.endswith(ending)), None)
    if ending is None:
        raise InputError(f"{path}: the name of a trace ends in {', '.join(FORMATS)} (--out)")
    if path.is_dir():
        raise InputError(f"{path}: this is a directory, not a file to write (--out)")
    names = (*COLUMNS, *([] if block_tokens is None else [PREFIX_COLUMN]))
    further = [name for name in texts if name not in names]
    schema = pa.schema([(name, _TYPES[name]) for name in names] + [(name, pa.string()) for name in further])
    unfinished = path.with_name(path.name + ".part")
    try:
        with contextlib.ExitStack() as stack:
            if ending == ".parquet":
                blocks = {} if block_tokens is None else {BLOCK_KEY: b"%d" % block_tokens}
                schema = schema.with_metadata({UNIT_KEY: b"us"} | blocks)
                sink = stack.enter_context(
                    pq.ParquetWriter(unfinished, schema, compression="zstd", compression_level=1)
                )
            else:
                compression = _COMPRESSIONS.get(path.suffix.lower())
                stream = stack.enter_context(pa.output_stream(str(unfinished), compression=compression))
                if ending.startswith(".csv"):
                    sink = stack.enter_context(contextlib.closing(_TraceCsv(stream, schema)))
                else:
                    sink = _TraceJsonLines(stream)
            writer = TraceWriter(sink, schema)
            yield writer
            if ending == ".parquet":
                mark = orjson.dumps({"rows": writer.rows, "span_s": writer.span_s})
                sink.add_key_value_metadata({CLEAN_KEY: mark})
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error} (--out)") from error
    finally:
        unfinished.unlink(missing_ok=True)
