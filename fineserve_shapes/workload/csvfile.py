"""CsvFile: a trace as comma-separated text, perhaps compressed, read in pieces by pandas' C parser."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.tracefile import (
    PEEK_ROWS,
    Chunk,
    Wanted,
    date_ticks,
    listed_ids,
    open_bytes,
    readable,
    wrong_value,
)


class CsvFile:
    """The first line that is not blank names the columns. Blank lines are no rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path), open_bytes(path) as stream:
            try:
                # read like the rows, so that quotes, a byte-order mark and blank lines are taken alike
                head = pd.read_csv(
                    stream, header=None, nrows=1, dtype=object, keep_default_na=False, encoding_errors="replace"
                )
            except pd.errors.EmptyDataError:
                raise InputError(f"{path}: the file is empty") from None
        self.names = tuple(str(name) for name in head.iloc[0])
        if any(letter in name for name in self.names for letter in "\0\ufffd"):
            raise InputError(f"{path}: the first line is no header in UTF-8 text; is it really a CSV file?")

    def head(self, column: str) -> list[object]:
        with (
            readable(self.path),
            open_bytes(self.path) as stream,
            pd.read_csv(stream, **self._parsing([column], dtype=object), chunksize=PEEK_ROWS) as reader,
        ):
            found = (frame.iloc[:, 0].dropna().tolist() for frame in reader)
            return next(filter(None, found), [])

    def stored_unit(self, timestamp: str) -> str | None:  # noqa: ARG002 - text says nothing of itself
        return None

    def chunks(self, wanted: Wanted, rows: int) -> Iterator[Chunk]:
        kinds: dict[str, Any] = dict.fromkeys(wanted.numbers, "float64") | dict.fromkeys(wanted.texts, "category")
        if wanted.date_times:
            kinds[wanted.numbers[0]] = object
        if wanted.ids is not None:
            kinds[wanted.ids] = object
        positions = {self.names.index(name): kind for name, kind in kinds.items()}
        with readable(self.path), open_bytes(self.path) as stream:
            reader = pd.read_csv(stream, **self._parsing(list(kinds), dtype=positions), chunksize=rows)
            with reader:
                for first_row in count(0, rows):
                    try:
                        frame = next(reader)
                    except StopIteration:
                        return
                    except IndexError:
                        if first_row:
                            raise
                        return  # so pandas answers to a header alone, when column types go by position
                    except ValueError as error:
                        raise self._text_error(wanted, first_row, rows, error) from error
                    columns = self._by_name(frame, kinds)
                    numbers = {name: columns[name].to_numpy() for name in wanted.numbers}
                    if wanted.date_times:
                        name = wanted.numbers[0]
                        numbers[name] = date_ticks(self, name, columns[name], first_row)
                    texts = {name: columns[name].array for name in wanted.texts}
                    ids = None
                    if wanted.ids is not None:
                        ids = listed_ids(self, wanted.ids, columns[wanted.ids], first_row)
                    yield Chunk(len(frame), numbers, texts, ids)

    def place(self, row: int) -> str:
        # the parser counts rows; lines differ from them by blank lines and by line breaks inside quotes
        with open_bytes(self.path) as stream, io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="") as text:
            reader = csv.reader(text)
            lines = (reader.line_num for fields in reader if any(map(str.strip, fields)) or len(fields) > 1)
            try:
                line = next(islice(lines, row + 1, None), None)  # the header is the first
            except (csv.Error, OSError):
                line = None
        return f"row {row + 1}" + (f" (line {line})" if line is not None else "")

    def _parsing(self, names: Sequence[str], dtype: Any) -> dict[str, Any]:
        return {
            "header": 0,
            "usecols": [self.names.index(name) for name in names],
            "dtype": dtype,
            "index_col": False,
            "encoding_errors": "replace",
        }

    def _by_name(self, frame: pd.DataFrame, names: Iterable[str]) -> dict[str, pd.Series[Any]]:
        # pandas keeps the file's order of columns, and renames those that come twice
        in_file_order = sorted(names, key=self.names.index)
        return {name: frame.iloc[:, position] for position, name in enumerate(in_file_order)}

    def _text_error(self, wanted: Wanted, first_row: int, rows: int, error: ValueError) -> InputError:
        """Which value the parser could not take: it does not say, so the chunk is read once more, as text."""
        numbers = wanted.numbers[1:] if wanted.date_times else wanted.numbers
        with (
            open_bytes(self.path) as stream,
            pd.read_csv(stream, **self._parsing(numbers, dtype=object), chunksize=rows) as reader,
        ):
            frame = next(islice(reader, first_row // rows, None))
        wrong: list[tuple[int, str, str]] = []
        for name, texts in self._by_name(frame, numbers).items():
            bad = np.flatnonzero(pd.to_numeric(texts, errors="coerce").isna() & texts.notna())
            wrong += [(int(row), name, texts.iloc[row]) for row in bad[:1]]
        if not wrong:
            message = " ".join(str(error).split())
            return InputError(f"{self.path}: rows {first_row + 1} to {first_row + len(frame)}: {message}")
        row, name, text = min(wrong)
        return wrong_value(self, first_row + row, name, text, "is no number")
