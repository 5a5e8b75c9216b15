"""Columns: rows of a trace as arrays of one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray
from fineserve_shapes.workload.prefixblocks import PrefixBlocks


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Kept rows in time order; all arrays have shape (n,).

    time_s: arrival in trace seconds, ascending; 0 is the start of the slice (without one: the first kept row).
    input_tokens, output_tokens: lengths, each at least 1.
    prefix: shared blocks of the prompts, where the trace has them.
    """

    time_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    prefix: PrefixBlocks | None = None

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True, slots=True, eq=False)
class CleanRows:
    """Kept rows in the file's order; all arrays have shape (n,).

    row: position in the file, from 0. ticks: timestamps in the file's unit. The lengths are at least 1.
    clamped: why the lengths are not the recorded ones, as a sum of `CLAMP_BITS`; 0 where they are.
    """

    row: IntArray
    ticks: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    clamped: npt.NDArray[np.uint8]
    prefix: PrefixBlocks | None = None

    def __len__(self) -> int:
        return len(self.row)


Rows = TypeVar("Rows", bound="RowsLike")


class RowsLike(Protocol):
    """A dataclass whose fields are columns: arrays, None, or what picks rows like an array and has `joined`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __len__(self) -> int: ...


def taken(rows: Rows, which: slice | IntArray | BoolArray) -> Rows:
    """The rows picked by a slice, positions or a mask."""
    columns = (getattr(rows, field.name) for field in fields(rows))
    return type(rows)(*(None if column is None else column[which] for column in columns))


def joined(parts: Sequence[Rows]) -> Rows:
    """The parts, of which there is at least one, in one piece."""
    kind = type(parts[0])
    return kind(*(_joined([getattr(part, field.name) for part in parts]) for field in fields(kind)))


def _joined(columns: Sequence[Any]) -> Any:
    if columns[0] is None or len(columns) == 1:
        return columns[0]
    return np.concatenate(columns) if isinstance(columns[0], np.ndarray) else type(columns[0]).joined(columns)


def pieces(rows: Rows, most: int) -> Iterator[Rows]:
    """The rows in pieces of at most so many."""
    for start in range(0, len(rows), most):
        yield taken(rows, slice(start, start + most))
