"""ParquetFile: a trace as columns on disk, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.prefixblocks import PrefixBlocks
from fineserve_shapes.workload.traces.selection import label_of, selected
from fineserve_shapes.workload.traces.timestamps import PER_SECOND
from fineserve_shapes.workload.traces.tracefile import (
    PEEK_ROWS,
    Chunk,
    Wanted,
    date_ticks,
    listed_ids,
    readable,
)

UNIT_KEY = b"fineserve.timestamp_unit"
BLOCK_KEY = b"fineserve.prefix_block_tokens"
CLEAN_KEY = b"fineserve.clean"  # JSON: {"rows": ..., "span_s": ...} of rows that are in time order and clean


@dataclass(frozen=True, slots=True)
class CleanMark:
    """That all rows are in time order and clean, and the first is at time 0. span_s: the time of the last one."""

    rows: int
    span_s: float


class ParquetFile:
    """The unit of the timestamps is the column's own (an Arrow timestamp) or in the metadata under `UNIT_KEY`.

    mark: what `fineserve trace convert` says of a file that it wrote.
    """

    header: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        with readable(path), pq.ParquetFile(path, memory_map=True) as file:
            self._schema = file.schema_arrow
            self.mark = _mark((file.metadata.metadata or {}).get(CLEAN_KEY), file.metadata.num_rows)
        self.names = tuple(self._schema.names)
        blocks = (self._schema.metadata or {}).get(BLOCK_KEY, b"")
        self.stored_block_tokens: int | None = int(blocks) if blocks.isdigit() and 0 < int(blocks) < 2**31 else None

    def head(self, column: str) -> list[object]:
        with readable(self.path), pq.ParquetFile(self.path, memory_map=True) as file:
            found = (
                batch.column(0).drop_null().to_pylist() for batch in file.iter_batches(PEEK_ROWS, columns=[column])
            )
            return next(filter(None, found), [])

    def stored_unit(self, timestamp: str) -> str | None:
        kind = self._schema.field(timestamp).type
        if pa.types.is_timestamp(kind):
            return str(kind.unit)
        unit = (self._schema.metadata or {}).get(UNIT_KEY)
        if unit is None:
            return None
        name = str(unit.decode("utf-8", "replace"))
        if name not in PER_SECOND:
            raise InputError(
                f"{self.path}: its metadata give the timestamp unit {clipped(name)!r}, which is none of"
                f" {', '.join(PER_SECOND)}; say it with --timestamp-unit"
            )
        return name

    def chunks(self, wanted: Wanted, rows: int) -> Iterator[Chunk]:
        first_row = 0
        ids_columns = [] if wanted.ids is None else [wanted.ids]
        with readable(self.path), pq.ParquetFile(self.path, memory_map=True) as file:
            for batch in file.iter_batches(rows, columns=[*wanted.numbers, *wanted.texts, *ids_columns]):
                texts = {name: _labels(batch.column(name)) for name in wanted.texts}
                at, every_tick, read = None, None, batch.num_rows
                if wanted.conditions:
                    here = selected(texts, wanted.conditions, read)
                    at = np.flatnonzero(here)
                    if wanted.every_tick:
                        row = np.arange(first_row, first_row + read)
                        every_tick = self._ticks(wanted, batch.column(wanted.numbers[0]), row)
                    texts = {name: labels[here] for name, labels in texts.items()}
                    batch = batch.filter(pa.array(here))
                row = first_row + (np.arange(read) if at is None else at)
                numbers = {name: self._floats(name, batch.column(name)) for name in wanted.numbers[1:]}
                if wanted.numbers:
                    numbers[wanted.numbers[0]] = self._ticks(wanted, batch.column(wanted.numbers[0]), row)
                ids = None if wanted.ids is None else self._ids(wanted.ids, batch.column(wanted.ids), row)
                yield Chunk(read, numbers, texts, ids, at, every_tick)
                first_row += read

    def place(self, row: int) -> str:
        return f"row {row + 1}"

    def _ticks(self, wanted: Wanted, values: pa.Array, row: IntArray) -> FloatArray:
        name = wanted.numbers[0]
        if wanted.date_times:
            return date_ticks(self, name, values.to_pandas().astype(object), row)
        return self._floats(name, values)

    def _floats(self, name: str, values: pa.Array) -> FloatArray:
        kind = values.type
        if pa.types.is_timestamp(kind):
            values = values.cast(pa.int64())
        elif not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_null(kind)
        ):
            raise InputError(f"{self.path}: column {clipped(name)} holds {kind}, not numbers")
        # beyond 2**53 whole numbers are rounded: nanoseconds since 1970 to a quarter of a microsecond
        floats = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return np.asarray(floats, dtype=np.float64)

    def _ids(self, name: str, values: pa.Array, row: IntArray) -> PrefixBlocks:
        kind = values.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
            return listed_ids(self, name, values.to_pylist(), row)
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        flat = values.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        return PrefixBlocks(np.concatenate(([0], np.cumsum(lengths))), flat)


def _labels(values: pa.Array) -> pd.Categorical:
    """Values as texts. Raises pa.ArrowException where their type has none."""
    kind = values.type
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind):
        return pd.Categorical([_text(value) for value in values.to_pylist()])
    texts = values if pa.types.is_dictionary(kind) else values.cast(pa.string()).dictionary_encode()
    return pd.Categorical(texts.cast(pa.dictionary(pa.int32(), pa.string())).to_pandas())


def _text(value: object) -> str | None:
    """A number as JSON would write it; None where it is missing."""
    return None if value is None or value != value else label_of(value)


def _mark(value: bytes | None, rows: int) -> CleanMark | None:
    """What a converted file says of itself; None where it says nothing that could be true."""
    if value is None:
        return None
    try:
        said = orjson.loads(value)
        mark = CleanMark(int(said["rows"]), float(said["span_s"]))
    except (ValueError, TypeError, KeyError):
        return None
    return mark if mark.rows == rows and 0 <= mark.span_s < np.inf else None
