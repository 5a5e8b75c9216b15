"""TraceFile: a recorded trace on disk, as chunks of typed columns; each format has a module of its own."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.prefixblocks import PrefixBlocks
from fineserve_shapes.workload.traces.selection import Condition
from fineserve_shapes.workload.traces.timestamps import date_times

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

PEEK_ROWS = 1000  # that tell what a column holds

DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")

# What pandas, orjson and Arrow raise on damaged files; zlib's and zstd's complaints come through Arrow as OSError.
DAMAGE = (ValueError, OSError, OverflowError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns to read: numbers[0] is the timestamp, and date_times says whether it is written as date-times.

    ids: a column of lists of whole numbers (`PrefixBlocks`), or None.
    conditions: a reader may leave out rows that do not meet them, where that is cheap; their columns are among the texts.
    every_tick: the timestamps of rows left out are wanted too.
    """

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    date_times: bool
    ids: str | None = None
    conditions: tuple[Condition, ...] = ()
    every_tick: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some rows as read, not yet cleaned.

    rows: how many were read. at: which of them are here, as places from 0, ascending; None: all.
    numbers: column -> float64, NaN where missing; date-times are microseconds since 1970.
    texts: column -> categories and their codes (-1 where missing).
    ids: of the column of ids, where one was asked for.
    every_tick: the timestamps of all rows read, where some are not here and they were asked for.
    """

    rows: int
    numbers: dict[str, FloatArray]
    texts: dict[str, pd.Categorical]
    ids: PrefixBlocks | None = None
    at: IntArray | None = None
    every_tick: FloatArray | None = None

    @property
    def places(self) -> IntArray:
        """Which of the rows read are here."""
        return np.arange(self.rows, dtype=np.int64) if self.at is None else self.at


class TraceFile(Protocol):
    """A file in one of the formats; each call of `chunks` reads it anew."""

    path: Path
    names: tuple[str, ...]
    header: str | None  # the line that names the columns, where there is one
    stored_block_tokens: int | None  # tokens behind each id of a shared block, where the file says so

    def head(self, column: str) -> list[object]:
        """Values of a column as they are written, without the missing ones, of the first `PEEK_ROWS` rows; where these
        have none, of the first rows that have one."""

    def stored_unit(self, timestamp: str) -> str | None:
        """The unit that the file itself tells of a column of numbers, in its type or its metadata."""

    def chunks(self, wanted: Wanted, rows: int) -> Iterator[Chunk]:
        """The file in chunks of at most so many rows. Raises InputError naming the place of what cannot be read."""

    def place(self, row: int) -> str:
        """Where a row (counted from 0) is, for a person: "row 7 (line 8)"."""


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed where its name ends in .gz or .zst.

    Arrow's decompressors, since they tell a truncated file from one that ends, which zstandard's do not.
    """
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        with path.open("rb") as stream:
            yield stream
    else:
        with (
            pa.OSFile(str(path)) as file,
            pa.CompressedInputStream(file, compression) as decompressed,
            io.BufferedReader(decompressed) as stream,
        ):
            yield stream


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong in reading the file becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read, it may be damaged: {' '.join(str(error).split())}") from error


def date_ticks(file: TraceFile, column: str, texts: pd.Series[str], row: IntArray) -> FloatArray:
    """Date-times of these rows as numbers. Raises InputError naming the first that is none."""
    ticks = date_times(texts)
    wrong = np.flatnonzero(np.isnan(ticks) & texts.notna().to_numpy())
    if len(wrong):
        raise wrong_value(file, int(row[wrong[0]]), column, texts.iloc[wrong[0]], "is no date-time")
    return ticks


def listed_ids(file: TraceFile, column: str, values: Iterable[object], row: IntArray) -> PrefixBlocks:
    """Lists of ids of these rows; a missing one is empty. Raises InputError naming the first that is no such list."""
    rows: list[list[int]] = []
    for place, value in enumerate(values):
        found = value
        if isinstance(value, str):  # a format without lists has them as JSON
            try:
                found = orjson.loads(value) if value.strip() else []
            except orjson.JSONDecodeError:
                found = value
        found = [] if found is None or found != found else found
        if not isinstance(found, list) or any(type(item) is not int or abs(item) >= 2**63 for item in found):
            raise wrong_value(file, int(row[place]), column, value, "is no list of whole numbers")
        rows.append(found)
    return PrefixBlocks.of(rows)


def wrong_value(file: TraceFile, row: int, column: str, value: object, complaint: str) -> InputError:
    """The error for one value: file, row, column, value and what is wrong with it."""
    shown = "no value" if value is None or value != value else clipped(repr(value))
    return InputError(f"{file.path}: {file.place(row)}, column {clipped(column)}: {shown} {complaint}")


def no_number(file: TraceFile, row: int, column: str, value: object) -> InputError:
    """The error for a value that is no number."""
    comma = isinstance(value, str) and DECIMAL_COMMA.fullmatch(value)
    return wrong_value(file, row, column, value, "is no number" + (" (it takes a decimal point)" if comma else ""))


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a message."""
    names = list(names)
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([clipped(name) for name in names[:most]] + more) or "none"
