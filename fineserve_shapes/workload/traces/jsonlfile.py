"""JsonlFile: a trace as one JSON object per line, perhaps compressed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.forms import TELLING
from fineserve_shapes.workload.traces.selection import label_of, selected
from fineserve_shapes.workload.traces.sessions import calls_of, holds_sessions
from fineserve_shapes.workload.traces.tracefile import (
    PEEK_ROWS,
    Chunk,
    Wanted,
    date_ticks,
    listed_ids,
    no_number,
    open_bytes,
    readable,
)

# What a file is, is told by its first rows: so many, or what is in so many bytes.
HEAD_ROWS = 100_000
HEAD_BYTES = 32 << 20
SESSION_CALLS = 32_768  # that are held at once: a call has ten times the values of a plain row
DEPTH = 8  # of objects in objects, whose keys have names


class JsonlFile:
    """The keys of the first `HEAD_ROWS` objects name the columns; a key that an object lacks is a missing value. A column
    inside an object is named with dots between, as in `tokens.prompt`. Where the lines are sessions, each of their calls
    is a row (`calls_of`).

    A key that tells what the file is (`TELLING`) and comes later only is an error: the rows before it were read as those
    of another file. Other keys may come and go.
    """

    header: str | None = None
    stored_block_tokens: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        names: dict[str, None] = {}
        self._sessions = False
        self._head_rows = read = 0
        for number, line in self._lines():
            fields = self._object(number, line)
            if not read:
                self._sessions = holds_sessions(fields)
            rows = calls_of(fields, f"{path}: line {number}") if self._sessions else [fields]
            for row in rows:
                _add_names(row, "", names)
            self._head_rows += len(rows)
            read += len(line)
            if self._head_rows >= HEAD_ROWS or read >= HEAD_BYTES:
                break
        if not read:
            raise InputError(f"{path}: the file is empty")
        if not self._head_rows:
            raise InputError(f"{path}: its first {read:,} bytes hold sessions without a call")
        self.names = tuple(names)
        self._late = TELLING - names.keys()

    def head(self, column: str) -> list[object]:
        objects = self._objects()
        while batch := list(islice(objects, PEEK_ROWS)):
            found = [value for value in _column(batch, column) if value is not None]
            if found:
                return found
        return []

    def stored_unit(self, timestamp: str) -> str | None:  # noqa: ARG002 - text says nothing of itself
        return None

    def chunks(self, wanted: Wanted, rows: int) -> Iterator[Chunk]:
        objects = self._objects()
        if self._sessions:
            rows = min(rows, SESSION_CALLS)
        first_row = 0
        while batch := list(islice(objects, rows)):
            self._check_keys(batch, first_row)
            read, at, every_tick = len(batch), None, None
            row = np.arange(first_row, first_row + read)
            texts = {name: pd.Categorical(list(map(_label, _column(batch, name)))) for name in wanted.texts}
            if wanted.conditions:
                at = np.flatnonzero(selected(texts, wanted.conditions, read))
                if wanted.every_tick:
                    every_tick = self._ticks(wanted, batch, row)
                texts = {name: labels[at] for name, labels in texts.items()}
                batch, row = [batch[place] for place in at.tolist()], row[at]
            numbers = {name: self._floats(name, _column(batch, name), row) for name in wanted.numbers[1:]}
            if wanted.numbers:
                numbers[wanted.numbers[0]] = self._ticks(wanted, batch, row)
            ids = None
            if (column := wanted.ids) is not None:
                ids = listed_ids(self, column, (fields.get(column) for fields in batch), row)
            yield Chunk(read, numbers, texts, ids, at, every_tick)
            first_row += read

    def place(self, row: int) -> str:
        line = next(islice((number for number, _ in self._numbered()), row, None))
        return f"row {row + 1} (line {line})"

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and text of the lines that are not blank."""
        with readable(self.path), open_bytes(self.path) as stream:
            for number, line in enumerate(stream, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text

    def _numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows, each with the number of its line."""
        for number, line in self._lines():
            fields = self._object(number, line)
            if not self._sessions:
                yield number, fields
            else:
                for call in calls_of(fields, f"{self.path}: line {number}"):
                    yield number, call

    def _objects(self) -> Iterator[dict[str, Any]]:
        if not self._sessions:  # the same in fewer steps
            return (self._object(number, line) for number, line in self._lines())
        return (fields for _, fields in self._numbered())

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            fields = orjson.loads(line)
        except ValueError as error:
            raise InputError(f"{self.path}: line {number} is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputError(f"{self.path}: line {number} is no JSON object")
        return fields

    def _check_keys(self, batch: list[dict[str, Any]], first_row: int) -> None:
        """That what the first rows tell of the file holds for these."""
        if first_row + len(batch) <= self._head_rows:
            return
        for row, fields in enumerate(batch, first_row):
            if not self._late.isdisjoint(fields):
                key = next(key for key in fields if key in self._late)
                raise InputError(
                    f"{self.path}: {self.place(row)} is the first with the key {key}, and the first {self._head_rows:,}"
                    f' rows tell what the file is: put "{key}": null into the first row'
                )

    def _ticks(self, wanted: Wanted, batch: list[dict[str, Any]], row: IntArray) -> FloatArray:
        name = wanted.numbers[0]
        values = _column(batch, name)
        if wanted.date_times:
            return date_ticks(self, name, pd.Series(values, dtype=object), row)
        return self._floats(name, values, row)

    def _floats(self, name: str, values: list[Any], row: IntArray) -> FloatArray:
        if set(map(type, values)) <= {int, float, type(None)}:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        floats = np.empty(len(values))
        for place, value in enumerate(values):
            try:
                floats[place] = math.nan if value is None else _float(value)
                proper = not isinstance(value, bool)
            except (TypeError, ValueError):
                proper = False
            if not proper:
                raise no_number(self, int(row[place]), name, value)
        return floats


def _float(value: Any) -> float:
    """A number, or a text that is one, as it would be in a CSV file; an empty text is a missing value."""
    if not isinstance(value, str):
        return float(value)
    if "_" in value:  # which Python takes
        raise ValueError
    return float(value) if value.strip() else math.nan


def _label(value: object) -> str | None:
    return None if value is None else label_of(value)


def _column(batch: list[dict[str, Any]], name: str) -> list[Any]:
    """A column's value in each row."""
    if "." not in name:
        return [fields.get(name) for fields in batch]
    return [_inside(fields, name) for fields in batch]


def _inside(fields: dict[str, Any], name: str) -> Any:
    """The value of a key, or at the end of a path of keys with dots between; None where there is none."""
    if name in fields:
        return fields[name]
    outer, _, rest = name.partition(".")
    inner = fields.get(outer)
    return _inside(inner, rest) if rest and isinstance(inner, dict) else None


def _add_names(fields: dict[str, Any], prefix: str, names: dict[str, None]) -> None:
    """Add the keys of a row, and with dots those of the objects in it."""
    for key, value in fields.items():
        names[prefix + key] = None
        if isinstance(value, dict) and prefix.count(".") < DEPTH:
            _add_names(value, f"{prefix}{key}.", names)
