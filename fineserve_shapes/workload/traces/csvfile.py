"""CsvFile: a trace as separated text, perhaps compressed, read in pieces by pandas' C parser."""

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
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.traces.csvrecords import CountedRecords, WrongRecord
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

SEPARATORS = (",", ";", "\t", "|")

# What stands for a missing number, as in pandas itself; a text is missing where its field is empty.
MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip


class CsvFile:
    """The first line that is not blank names the columns; blanks around a name are none of it. Blank lines are no rows.

    Fields are separated by commas; by semicolons, tabs or vertical bars where the first line has no comma and just one
    of these kinds. Every row has as many fields as there are names; what is beyond them, in the header too, is empty.
    """

    stored_block_tokens: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.separator, names = self._header()
        self.header: str | None = self.separator.join(names)
        if any(letter in name for name in names for letter in "\0\ufffd"):
            raise InputError(f"{path}: the first line is no header in UTF-8 text; is it really a CSV file?")
        names = [name.strip() for name in names]
        while len(names) > 1 and not names[-1]:
            names.pop()
        self.names = tuple(names)

    def _header(self) -> tuple[str, list[str]]:
        """The separator, and the names between."""
        found = {separator: self._first_line(separator) for separator in SEPARATORS}
        if len(found[","]) == 1:
            others = [separator for separator, names in found.items() if len(names) > 1]
            if len(others) == 1:
                return others[0], found[others[0]]
        return ",", found[","]

    def _first_line(self, separator: str) -> list[str]:
        # read like the rows, so that quotes, a byte-order mark and blank lines are taken alike
        with readable(self.path), open_bytes(self.path) as stream:
            try:
                line = pd.read_csv(
                    stream, header=None, nrows=1, sep=separator, dtype=object, keep_default_na=False,
                    encoding_errors="replace",
                )  # fmt: skip
            except pd.errors.EmptyDataError:
                raise InputError(f"{self.path}: the file is empty") from None
        return [str(name) for name in line.iloc[0]]

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
        kinds: dict[str, Any] = dict.fromkeys(wanted.numbers, "float64") | dict.fromkeys(wanted.texts, object)
        if wanted.date_times:
            kinds[wanted.numbers[0]] = object
        if wanted.ids is not None:
            kinds[wanted.ids] = object
        positions = {self.names.index(name): kind for name, kind in kinds.items()}
        missing = {self.names.index(name): [""] if name in wanted.texts else MISSING for name in kinds}
        with readable(self.path), open_bytes(self.path) as stream:
            counted = CountedRecords(stream, self.separator.encode(), len(self.names))
            parsing = self._parsing(list(kinds), dtype=positions) | {"keep_default_na": False, "na_values": missing}
            reader: Any = pd.read_csv(counted, **parsing, chunksize=rows)  # type: ignore[call-overload]
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
                        self._check(counted.wrong, first_row + rows)
                        raise self._text_error(wanted, first_row, rows, error) from error
                    self._check(counted.wrong, first_row + len(frame))
                    columns = self._by_name(frame, kinds)
                    numbers = {name: columns[name].to_numpy() for name in wanted.numbers}
                    row = np.arange(first_row, first_row + len(frame))
                    if wanted.date_times:
                        name = wanted.numbers[0]
                        numbers[name] = date_ticks(self, name, columns[name], row)
                    # not categories from the parser: it takes 007 for 7 where all of them are numbers
                    texts = {name: pd.Categorical(columns[name]) for name in wanted.texts}
                    ids = None
                    if wanted.ids is not None:
                        ids = listed_ids(self, wanted.ids, columns[wanted.ids], row)
                    yield Chunk(len(frame), numbers, texts, ids)

    def place(self, row: int) -> str:
        # the parser counts rows; lines differ from them by blank lines and by line breaks inside quotes
        with open_bytes(self.path) as stream, io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="") as text:
            reader = csv.reader(text, delimiter=self.separator)
            lines = (reader.line_num for fields in reader if any(map(str.strip, fields)) or len(fields) > 1)
            try:
                line = next(islice(lines, row + 1, None), None)  # the header is the first
            except (csv.Error, OSError):
                line = None
        return f"row {row + 1}" + (f" (line {line})" if line is not None else "")

    def _parsing(self, names: Sequence[str], dtype: Any) -> dict[str, Any]:
        return {
            "header": 0,
            "sep": self.separator,
            "usecols": [self.names.index(name) for name in names],
            "dtype": dtype,
            "index_col": False,
            "encoding_errors": "replace",
        }

    def _check(self, wrong: WrongRecord | None, rows: int) -> None:
        """Raise for a record that does not fit, if the first so many rows have it."""
        if wrong is None or wrong.row >= rows:
            return
        shown = repr(clipped(wrong.text, 80))
        if not wrong.fields:
            raise InputError(
                f"{self.path}: {self.place(wrong.row)} does not end, is a quote left open? It begins {shown}"
            )
        more = wrong.fields > len(self.names)
        raise InputError(
            f"{self.path}: {self.place(wrong.row)} has {wrong.fields} field{'s' * (wrong.fields > 1)} where the header"
            f" names {len(self.names)}: {shown}"
            + (f" (a number takes a decimal point, and a text with {self.separator!r} in it quotes)" if more else "")
        )

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
        return no_number(self, first_row + row, name, text)
