"""Messages between master and workers: the lease protocol's values as plain data, and back.

What may live here: packing and checking. Whatever comes off the wire is a peer's word: it is checked before it is used,
and a MessageError says what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.engine.leases import Batch, Lease, Report, Row
from fineserve_shapes.engine.slots import Limit, Load
from fineserve_shapes.measure.ledger import OUTCOMES

PREFIX = "fineserve."
LEASE, BEGIN, DRAIN, PONG = (PREFIX + name for name in ("lease", "begin", "drain", "pong"))
HELLO, REPORT, PING = (PREFIX + name for name in ("hello", "report", "ping"))

_ROW = np.dtype(
    [
        ("due_s", "<f8"),
        ("request", "<i8"),
        ("input_tokens", "<i4"),
        ("output_tokens", "<i4"),
        ("stream", "<i2"),
    ]
)


class MessageError(ValueError):
    """A message that no peer of this version sends."""


def pack_lease(lease: Lease) -> dict[str, Any]:
    """A lease as plain data."""
    return {
        "epoch": lease.epoch,
        "seen_s": lease.seen_s,
        "batches": lease.batches,
        "number": lease.number,
        "rows": _pack_rows(lease.rows),
        "limit": None if lease.limit is None else [lease.limit.number, lease.limit.limit],
    }


def unpack_lease(data: Any) -> Lease:
    """The lease that was packed."""
    number = data_field(data, "number", (int, type(None)))
    return Lease(
        epoch=data_field(data, "epoch", int),
        seen_s=data_field(data, "seen_s", float),
        batches=data_field(data, "batches", int),
        number=number,
        rows=[Row(*row) for row in _array(data, "rows", _ROW).tolist()],
        limit=None if data_field(data, "limit", (list, type(None))) is None else Limit(*_counts(data, "limit", 2)),
    )


def pack_report(report: Report) -> dict[str, Any]:
    """A report as plain data."""
    return {
        "epoch": report.epoch,
        "at_s": report.at_s,
        "leases": report.leases,
        "late_s": report.late_s,
        "leaving": report.leaving,
        "load": [report.load.number, report.load.in_flight, report.load.waiting],
        "batches": [
            {
                "number": batch.number,
                "done": batch.done.astype("<i8").tobytes(),
                "outcomes": batch.outcomes.tobytes(),
                "dropped": batch.dropped.astype("<i8").tobytes(),
                "epochs": batch.epochs.astype("<i8").tobytes(),
                "payload": batch.payload,
            }
            for batch in report.batches
        ],
    }


def unpack_report(data: Any) -> Report:
    """The report that was packed; payloads are the measuring room's to check."""
    return Report(
        epoch=data_field(data, "epoch", int),
        at_s=data_field(data, "at_s", float),
        leases=data_field(data, "leases", int),
        batches=[_unpack_batch(batch) for batch in data_field(data, "batches", list)],
        late_s=data_field(data, "late_s", float),
        leaving=data_field(data, "leaving", bool),
        load=Load(*_counts(data, "load", 3)),
    )


def unpack_facts(data: Any) -> dict[str, Any]:
    """What a report says beside the protocol, for people to see: requests in flight, and the worker's clock.

    in_flight: a count. offset_s: the master's clock less the worker's. uncertainty_s: how far off that may be.
    """
    return {
        "in_flight": data_field(data, "in_flight", int),
        "offset_s": data_field(data, "offset_s", float),
        "uncertainty_s": data_field(data, "uncertainty_s", float),
    }


def data_field(data: Any, name: str, kinds: type | tuple[type, ...]) -> Any:
    """A field of a message, checked for its type; a float must be finite."""
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise MessageError(f"the field {name!r} of a message is a {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise MessageError(f"the field {name!r} of a message is {value}")
    return value


def _unpack_batch(data: Any) -> Batch:
    done, outcomes = _array(data, "done", np.dtype("<i8")), _array(data, "outcomes", np.dtype("u1"))
    dropped, epochs = _array(data, "dropped", np.dtype("<i8")), _array(data, "epochs", np.dtype("<i8"))
    if len(done) != len(outcomes) or len(dropped) != len(epochs):
        raise MessageError("the columns of a batch differ in length")
    if len(outcomes) and int(outcomes.max()) >= len(OUTCOMES):
        raise MessageError(f"{int(outcomes.max())} is no outcome")
    return Batch(data_field(data, "number", int), done, outcomes, dropped, epochs, data.get("payload"))


def _pack_rows(rows: Sequence[Row]) -> bytes:
    return np.array(list(rows), dtype=_ROW).tobytes()


def _counts(data: Any, name: str, length: int) -> list[int]:
    """A list of so many whole numbers."""
    found: list[int] = data_field(data, name, list)
    if len(found) != length or any(type(value) is not int for value in found):
        raise MessageError(f"the field {name!r} of a message is no list of {length} whole numbers")
    return found


def _array(data: Any, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        return np.frombuffer(data_field(data, name, bytes), dtype=dtype)
    except ValueError as error:
        raise MessageError(f"the field {name!r} of a message cannot be read: {error}") from None
