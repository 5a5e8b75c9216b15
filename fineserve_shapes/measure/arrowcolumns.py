"""Arrow columns: arrays of Arrow from what NumPy and Python hold, as `pyarrow.array(..., from_pandas=True)` makes them.

That function imports pandas when it is first called, whatever it is given: a third of a second, most of it under the
interpreter's lock, and in the first second of a run, when a request log gets its first rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def column(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """An array of that kind: numbers and truth values of NumPy, or a list in which None is null. NaN is null too.

    kind: bool, a signed integer, float64, string or a list of float64.
    """
    if pa.types.is_string(kind):
        return _texts(values, kind)
    if pa.types.is_list(kind):
        return _lists(values, kind)
    return _numbers(values, kind)


def _numbers(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    dtype = np.dtype(np.float64) if kind == pa.float64() else np.dtype(str(kind))
    if isinstance(values, np.ndarray):
        plain, known = np.ascontiguousarray(values, dtype=dtype), None
    else:
        plain = np.array([0 if value is None else value for value in values], dtype=dtype)
        known = _not_none(values)
    if dtype.kind == "f":
        numbers = ~np.isnan(plain)
        known = numbers if known is None else known & numbers
    data = np.packbits(plain, bitorder="little") if dtype.kind == "b" else plain
    return pa.Array.from_buffers(kind, len(plain), [_bits(known), pa.py_buffer(data)])


def _texts(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    encoded = [b"" if value is None else value.encode() for value in values]
    buffers = [_bits(_not_none(values)), _offsets(encoded), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(kind, len(encoded), buffers)


def _lists(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    lists = [() if value is None else value for value in values]
    inner = _numbers(np.fromiter(chain.from_iterable(lists), dtype=np.float64), kind.value_type)
    return pa.Array.from_buffers(kind, len(lists), [_bits(_not_none(values)), _offsets(lists)], children=[inner])


def _offsets(parts: Sequence[Any]) -> pa.Buffer:
    """Where each begins, and where the last ends."""
    ends = np.zeros(len(parts) + 1, dtype=np.int32)
    np.cumsum([len(part) for part in parts], out=ends[1:])
    return pa.py_buffer(ends)


def _not_none(values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.array([value is not None for value in values], dtype=np.bool_)


def _bits(known: npt.NDArray[np.bool_] | None) -> pa.Buffer | None:
    """None where nothing is null."""
    return None if known is None or known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
