"""Request log: one row per planned request in a file, whatever became of it.

What may live here: the columns and the three forms. It writes where it is called; keeping that off the load's path is
the engine's business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.filenames import named
from fineserve_shapes.measure import records
from fineserve_shapes.measure.arrowcolumns import column
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.outcome import OUTCOMES

ROW_GROUP_ROWS = 20_000
ROW_GROUP_BYTES = 2**24
ROW_GROUP_S = 60.0
JOINED_TABLES = 64

Columns = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),  # as in X-Request-Id
        ("index", pa.int64()),
        ("stream", pa.string()),
        ("position", pa.int64()),  # among the requests of its stream
        ("outcome", pa.string()),
        ("error", pa.string()),
        ("worker", pa.string()),  # null for a request that none was to send
        ("warmup", pa.bool_()),  # due in --warmup-seconds
        ("due_s", pa.float64()),
        ("sent_s", pa.float64()),
        ("first_token_s", pa.float64()),
        ("first_visible_s", pa.float64()),
        ("last_token_s", pa.float64()),
        ("end_s", pa.float64()),
        ("asked_input", pa.int32()),
        ("asked_output", pa.int32()),
        ("input_tokens", pa.int32()),  # by the server's usage
        ("output_tokens", pa.int32()),
        ("tokens_from", pa.string()),  # where output_tokens is from: usage, or counted chunks
        ("chunks", pa.int32()),
        ("first_chunk_tokens", pa.int32()),
        ("first_chunk_known", pa.bool_()),
        ("status", pa.int16()),  # of HTTP
        ("reused", pa.bool_()),  # the connection
        ("retried", pa.bool_()),
        ("short", pa.bool_()),
        ("no_finish_reason", pa.bool_()),  # an ok that never said why it ended
        ("server_ttft_s", pa.float64()),
        ("server_itl_s", pa.float64()),
        ("held_s", pa.float64()),  # how long --max-concurrency held it back
    ]
)
"""Times are seconds from the start of the run, null where there was no such moment. With token times there is one more
column, `token_times_s`: a list (in CSV text, separated by semicolons), one time per chunk that carries tokens."""

_TEXTS = ("error", "worker")  # not ours: a server's words, a machine's name
_AS_THEY_ARE = [name for name in SCHEMA.names if name in (records.RECORD.names or ()) and name != "stream"]


class RequestLog:
    """Writes rows to a file whose name says the form: .parquet, .jsonl or .csv.

    path: `{run}` in it stands for the run's name. names: of the run's streams. token_times: whether the time of every
    chunk is a column.
    warmup_s: rows due before it are marked.

    Raises InputError for another form, or where the file cannot be written.
    """

    def __init__(
        self, path: Path, run: str, names: Names | None = None, *, token_times: bool = False, warmup_s: float = 0.0
    ) -> None:
        form = _FORMS.get(path.suffix.lower())
        if form is None:
            raise InputError(f"{path} must end in {', '.join(_FORMS)} (--request-log)")
        self.path = named(path, run)
        self.rows = 0
        self._run, self._names = run, names or Names()
        self._warmup_s = warmup_s
        self._token_times = token_times
        schema = SCHEMA.append(pa.field("token_times_s", pa.list_(pa.float64()))) if token_times else SCHEMA
        try:
            self._form = form(self.path, schema)
        except OSError as error:
            raise InputError(
                f"cannot write to {self.path}: {(error.strerror or str(error)).lower()} (--request-log)"
            ) from None

    def write(self, measured: Measurements, worker: str) -> None:
        """Rows of requests that were sent and have ended."""
        rows = measured.records
        if not len(rows):
            return
        errors: list[str | None] = [None] * len(rows)
        for (_, text), at in measured.errors:
            for place in at.tolist():
                errors[place] = text
        outcomes = [OUTCOMES[code] for code in rows["outcome"].tolist()]
        columns = {name: rows[name] for name in _AS_THEY_ARE} | {
            **self._common(rows["stream"], rows["index"], rows["position"], outcomes, rows["due_s"]),
            "error": errors,
            "worker": [worker] * len(rows),
            "input_tokens": _known(rows["input_tokens"]),
            "output_tokens": _known(rows["output_tokens"]),
            "tokens_from": [
                None if tokens < 0 else "usage" if usage else "chunks"
                for tokens, usage in zip(rows["output_tokens"].tolist(), rows["from_usage"].tolist(), strict=True)
            ],
            "status": [status or None for status in rows["status"].tolist()],
        }
        if self._token_times:
            columns["token_times_s"] = _lists(rows["chunks"], measured.token_times_s)
        self._write(columns, len(rows))

    def write_lost(
        self,
        outcome: str,
        index: IntArray,
        position: IntArray,
        stream: IntArray,
        due_s: FloatArray,
        asked_input: IntArray,
        asked_output: IntArray,
        workers: Sequence[str] | None = None,
    ) -> None:
        """Rows of requests of which nothing is known but that they were planned: unsent or unknown ones."""
        size = len(index)
        nothing = [None] * size
        columns = dict.fromkeys(SCHEMA.names, nothing) | {
            **self._common(stream, index, position, [outcome] * size, due_s),
            "due_s": due_s,
            "asked_input": asked_input,
            "asked_output": asked_output,
            "worker": nothing if workers is None else list(workers),
        }
        if self._token_times:
            columns["token_times_s"] = nothing
        if size:
            self._write(columns, size)

    def close(self, about: bytes = b"{}") -> None:
        """Finish the file. about: JSON of the run, which a .parquet file keeps as its metadata `fineserve`."""
        self._form.close(about)

    def _common(
        self,
        stream: npt.NDArray[Any],
        index: npt.NDArray[Any],
        position: npt.NDArray[Any],
        outcomes: list[str],
        due_s: npt.NDArray[Any],
    ) -> Columns:
        rows = zip(stream.tolist(), index.tolist(), position.tolist(), strict=True)
        return {
            "request_id": [self._names.request_id(self._run, *row) for row in rows],
            "stream": [self._names.of(number) for number in stream.tolist()],
            "index": index,
            "position": position,
            "outcome": outcomes,
            "warmup": due_s < self._warmup_s,
        }

    def _write(self, columns: Columns, size: int) -> None:
        self._form.write(columns)
        self.rows += size


class _Form(Protocol):
    def __init__(self, path: Path, schema: Any) -> None: ...

    def write(self, columns: Columns) -> None: ...

    def close(self, about: bytes) -> None: ...


class _Parquet:
    """Columns in row groups; the file can be read once it is closed.

    What waits for its row group is put together now and then: a table of a few rows takes some 30 kB, whatever is in it.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema = schema
        self._writer = pa.parquet.ParquetWriter(path, schema, compression="zstd")
        self._tables: list[Any] = []  # some joined ones, then the newest
        self._small = 0  # how many of them are not joined
        self._rows = self._bytes = 0
        self._flushed_s = time.monotonic()

    def write(self, columns: Columns) -> None:
        table = _table(columns, self._schema)
        self._tables.append(table)
        self._small += 1
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if (
            self._rows >= ROW_GROUP_ROWS
            or self._bytes >= ROW_GROUP_BYTES
            or time.monotonic() - self._flushed_s > ROW_GROUP_S
        ):
            self._flush()
        elif self._small == JOINED_TABLES:
            self._tables[-self._small :] = [pa.concat_tables(self._tables[-self._small :]).combine_chunks()]
            self._small = 0

    def close(self, about: bytes) -> None:
        self._flush()
        self._writer.add_key_value_metadata({"fineserve": about})
        self._writer.close()

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables).combine_chunks(), row_group_size=2 * ROW_GROUP_ROWS)
            self._tables, self._small, self._rows, self._bytes = [], 0, 0, 0
        self._flushed_s = time.monotonic()


class _Csv:
    """Text for spreadsheets: a cell of foreign text that could be taken for a formula has a ' before it."""

    def __init__(self, path: Path, schema: Any) -> None:
        fields = [pa.field(field.name, pa.string()) if field.name == "token_times_s" else field for field in schema]
        self._schema = pa.schema(fields)
        self._file: IO[bytes] = path.open("wb")
        self._writer = pa.csv.CSVWriter(self._file, self._schema)

    def write(self, columns: Columns) -> None:
        columns = columns | {name: list(map(harmless, columns[name])) for name in _TEXTS}
        if "token_times_s" in columns:
            columns["token_times_s"] = [
                None if times is None else ";".join(f"{time_s:.6f}" for time_s in times)
                for times in columns["token_times_s"]
            ]
        self._writer.write_table(_table(columns, self._schema))
        self._file.flush()

    def close(self, about: bytes) -> None:  # noqa: ARG002 - CSV has no place for it
        self._writer.close()
        self._file.close()


class _JsonLines:
    """One object a line."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._names = schema.names
        self._file: IO[bytes] = path.open("wb")

    def write(self, columns: Columns) -> None:
        values = [columns[name] for name in self._names]
        lists = [value if isinstance(value, list) else value.tolist() for value in values]
        self._file.writelines(
            orjson.dumps(dict(zip(self._names, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE)  # NaN is null
            for row in zip(*lists, strict=True)
        )
        self._file.flush()

    def close(self, about: bytes) -> None:  # noqa: ARG002 - a line is a request
        self._file.close()


_FORMS: Mapping[str, type[_Form]] = {".parquet": _Parquet, ".jsonl": _JsonLines, ".csv": _Csv}


def harmless(text: str | None) -> str | None:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text


def _table(columns: Columns, schema: Any) -> Any:
    return pa.Table.from_arrays([column(columns[field.name], field.type) for field in schema], schema=schema)


def _known(counts: npt.NDArray[Any]) -> list[int | None]:
    return [count if count >= 0 else None for count in counts.tolist()]


def _lists(sizes: npt.NDArray[Any], times_s: FloatArray | None) -> list[list[float] | None]:
    if times_s is None:
        return [None] * len(sizes)
    ends = np.cumsum(sizes).tolist()
    flat = times_s.tolist()
    return [flat[end - size : end] for size, end in zip(sizes.tolist(), ends, strict=True)]
