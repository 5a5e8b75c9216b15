"""Conditions: which rows of a trace are selected, by what a column holds."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from fineserve_shapes.arrays import BoolArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped

if TYPE_CHECKING:
    import pandas as pd

WHERE = "--where"


@dataclass(frozen=True, slots=True)
class Condition:
    """That a column holds a value.

    Texts compare as they are, and a missing value is an empty text. flag: the option that asked for it. loose: spellings
    of the published files are alike instead (`normalised`).
    """

    column: str
    value: str
    flag: str = WHERE
    loose: bool = False

    def holds(self, label: str) -> bool:
        """Whether a row with this label is selected."""
        return normalised(label) == normalised(self.value) if self.loose else label == self.value

    def among(self, labels: pd.Categorical) -> BoolArray:
        """Which of some rows are selected; a missing label has code -1, the last entry."""
        held = [self.holds(str(label)) for label in labels.categories]
        return np.array([*held, self.holds("")])[np.asarray(labels.codes)]


def selected(texts: Mapping[str, pd.Categorical], conditions: Iterable[Condition], rows: int) -> BoolArray:
    """Which of so many rows meet all conditions; texts: column -> its labels."""
    found: BoolArray = np.ones(rows, dtype=bool)
    for condition in conditions:
        found &= condition.among(texts[condition.column])
    return found


def parse_where(text: str) -> tuple[tuple[str, str], ...]:
    """Read `COLUMN=VALUE`, several with commas between; one that has a comma in it stands in double quotes, as in a CSV
    file. Raises InputError if the text is none of this.

    >>> parse_where('model=GPT-4,type=text')
    (('model', 'GPT-4'), ('type', 'text'))
    >>> parse_where('"model=a, b"')
    (('model', 'a, b'),)
    """
    pairs = []
    try:
        parts = next(csv.reader([text], strict=True, skipinitialspace=True), [])
    except csv.Error as error:
        raise InputError(
            f"{WHERE} takes COLUMN=VALUE, with commas between several; got {shown(text)}: {error}"
        ) from None
    for part in parts:
        column, equals, value = part.partition("=")
        if not equals or not column.strip():
            raise InputError(
                f"{WHERE} takes COLUMN=VALUE, with commas between several, got {shown(part)}"
                ' (one with a comma in it in quotes: "model=a,b")'
            )
        pairs.append((column.strip(), value))
    return tuple(pairs)


def where_text(pairs: Iterable[tuple[str, str]]) -> str:
    """The text that `parse_where` reads as these columns and values."""
    return ",".join(map(_quoted, (f"{column}={value}" for column, value in pairs)))


def _quoted(part: str) -> str:
    doubled = part.replace('"', '""')
    return f'"{doubled}"' if re.search(r'[",\r\n]', part) or part != part.strip() else part


def label_of(value: object) -> str:
    """A JSON value as the text to compare: as JSON writes it, and text as it is; nothing for null.

    >>> [label_of(value) for value in ("a", 1, 1.0, True, None, [1, "b"])]
    ['a', '1', '1.0', 'true', '', '[1,"b"]']
    """
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` where one of the names is near."""
    spelled = {known.casefold(): known for known in names}
    found = difflib.get_close_matches(name.casefold(), list(spelled), 1)
    return f"; did you mean {clipped(spelled[found[0]])}?" if found else ""


def checked_where(where: Iterable[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """Columns and values as tuples. Raises InputError where two values are asked of one column."""
    pairs = tuple((str(column), str(value)) for column, value in where)
    held: dict[str, str] = {}
    for column, value in pairs:
        if held.setdefault(column, value) != value:
            raise InputError(
                f"no row has two values of {clipped(column)}, {shown(held[column])} and {shown(value)} ({WHERE})"
            )
    return pairs


def shown(text: str) -> str:
    """A value in a message."""
    return clipped(repr(text))


def normalised(label: str) -> str:
    """One spelling for an architecture or a scale.

    >>> [normalised(text) for text in ("<10B", "lt10B", "10-30B", "10to30B", ">100B", "MoE")]
    ['lt10b', 'lt10b', '10to30b', '10to30b', 'gt100b', 'moe']
    """
    text = re.sub(r"\s+", "", label).lower()
    return text.replace("<", "lt").replace(">", "gt").replace("-", "to")
