"""Columns: rows of a trace as arrays of one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fineserve_shapes.workload.block import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Kept rows in time order; all arrays have shape (n,).

    time_s: arrival in trace seconds, ascending; 0 is the start of the slice (without one: the first kept row).
    input_tokens, output_tokens: lengths, each at least 1.
    """

    time_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray

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

    def __len__(self) -> int:
        return len(self.row)


Rows = TypeVar("Rows", Columns, CleanRows)


def taken(rows: Rows, which: slice | IntArray | npt.NDArray[np.bool_]) -> Rows:
    """The rows picked by a slice, positions or a mask."""
    return type(rows)(*(getattr(rows, field.name)[which] for field in fields(rows)))


def joined(parts: Sequence[Rows]) -> Rows:
    """The parts, of which there is at least one, in one piece."""
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(kind)))


def pieces(rows: Rows, most: int) -> Iterator[Rows]:
    """The rows in pieces of at most so many."""
    for start in range(0, len(rows), most):
        yield taken(rows, slice(start, start + most))
