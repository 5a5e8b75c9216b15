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

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.forms import TELLING
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


class JsonlFile:
    """The keys of the first `HEAD_ROWS` objects name the columns; a key that an object lacks is a missing value.

    A key that tells what the file is (`TELLING`) and comes later only is an error: the rows before it were read as those
    of another file. Other keys may come and go.
    """

    header: str | None = None
    stored_block_tokens: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        names: dict[str, None] = {}
        self._head_rows = read = 0
        for number, line in self._lines():
            names.update(dict.fromkeys(self._object(number, line)))
            self._head_rows += 1
            read += len(line)
            if self._head_rows == HEAD_ROWS or read >= HEAD_BYTES:
                break
        if not self._head_rows:
            raise InputError(f"{path}: the file is empty")
        self.names = tuple(names)
        self._late = TELLING - names.keys()

    def head(self, column: str) -> list[object]:
        objects = self._objects()
        while batch := list(islice(objects, PEEK_ROWS)):
            found = [value for fields in batch if (value := fields.get(column)) is not None]
            if found:
                return found
        return []

    def stored_unit(self, timestamp: str) -> str | None:  # noqa: ARG002 - text says nothing of itself
        return None

    def chunks(self, wanted: Wanted, rows: int) -> Iterator[Chunk]:
        objects = self._objects()
        first_row = 0
        while batch := list(islice(objects, rows)):
            self._check_keys(batch, first_row)
            numbers = {}
            for name in wanted.numbers:
                values = [fields.get(name) for fields in batch]
                if wanted.date_times and name == wanted.numbers[0]:
                    numbers[name] = date_ticks(self, name, pd.Series(values, dtype=object), first_row)
                else:
                    numbers[name] = self._floats(name, values, first_row)
            texts = {name: pd.Categorical([_label(fields.get(name)) for fields in batch]) for name in wanted.texts}
            ids = None
            if (column := wanted.ids) is not None:
                ids = listed_ids(self, column, (fields.get(column) for fields in batch), first_row)
            yield Chunk(len(batch), numbers, texts, ids)
            first_row += len(batch)

    def place(self, row: int) -> str:
        line = next(islice((number for number, _ in self._lines()), row, None))
        return f"row {row + 1} (line {line})"

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and text of the lines that are not blank."""
        with readable(self.path), open_bytes(self.path) as stream:
            for number, line in enumerate(stream, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text

    def _objects(self) -> Iterator[dict[str, Any]]:
        return (self._object(number, line) for number, line in self._lines())

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

    def _floats(self, name: str, values: list[Any], first_row: int) -> FloatArray:
        if set(map(type, values)) <= {int, float, type(None)}:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        floats = np.empty(len(values))
        for row, value in enumerate(values):
            try:
                floats[row] = math.nan if value is None else _float(value)
                proper = not isinstance(value, bool)
            except (TypeError, ValueError):
                proper = False
            if not proper:
                raise no_number(self, first_row + row, name, value)
        return floats


def _float(value: Any) -> float:
    """A number, or a text that is one, as it would be in a CSV file; an empty text is a missing value."""
    if not isinstance(value, str):
        return float(value)
    if "_" in value:  # which Python takes
        raise ValueError
    return float(value) if value.strip() else math.nan


def _label(value: object) -> str | None:
    return None if value is None else str(value)
