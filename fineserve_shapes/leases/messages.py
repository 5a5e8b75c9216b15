"""Messages between master and workers: the lease protocol's values as plain data, and back.

What may live here: packing and checking. Whatever comes off the wire is a peer's word: it is checked before it is used,
and a MessageError says what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.leases.lease import Batch, Lease, Report, Row
from fineserve_shapes.leases.slots import Limit, Load
from fineserve_shapes.measure.names import Names
from fineserve_shapes.outcome import OUTCOMES
from fineserve_shapes.text import MAX_CHARS, shorten

PREFIX = "fineserve."
LEASE, BEGIN, DRAIN, END, PONG, WARM_UP = (
    PREFIX + name for name in ("lease", "begin", "drain", "end", "pong", "warm_up")
)
HELLO, REPORT, PING, WARM = (PREFIX + name for name in ("hello", "report", "ping", "warm"))

_ROW = np.dtype(
    [
        ("due_s", "<f8"),
        ("request", "<i8"),
        ("input_tokens", "<i4"),
        ("output_tokens", "<i4"),
        ("stream", "<i2"),
        ("position", "<i8"),
    ]
)


_PLAIN = (str, int, float, bool, type(None))
_MANY = 2**31
TOKENS = 2**53
"""More tokens than that no run has."""


class MessageError(ValueError):
    """A message that no peer of this version sends."""


def pack_lease(lease: Lease) -> dict[str, Any]:
    """A lease as plain data."""
    return {
        "epoch": lease.epoch,
        "seen_s": lease.seen_s,
        "batches": lease.batches,
        "number": lease.number,
        "rows": pack_rows(lease.rows),
        "prefixes": _pack_prefixes(lease.rows),
        "limit": None if lease.limit is None else [lease.limit.number, lease.limit.limit],
    }


def unpack_hello(data: Any) -> tuple[dict[str, Any], str | None]:
    """What a worker says when it is ready, and why it cannot be, if so."""
    error = data_field(data, "error", (str, type(None)))
    facts = _plain(data)
    if (streams := data_field(data, "streams", (dict, type(None)))) is not None:
        facts["streams"] = {str(name): _plain(of) for name, of in streams.items() if isinstance(of, dict)}
    return facts, None if error is None else shorten(error, 2 * MAX_CHARS)  # our own words around a server's


def by_stream(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What a worker said of each stream by name; under "" where the run is no mix."""
    found: Mapping[str, Mapping[str, Any]] = facts.get("streams") or {"": facts}
    return found


def _plain(data: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if isinstance(name, str) and isinstance(value, _PLAIN)}


@dataclass(frozen=True, slots=True)
class Warmed:
    """What a worker says of its warm-up requests: how many it sent, how many ended well, and the first one's error."""

    run: str
    requests: int
    ok: int
    error: str | None

    def pack(self) -> dict[str, Any]:
        """As plain data."""
        return {"run": self.run, "requests": self.requests, "ok": self.ok, "error": self.error}

    @classmethod
    def unpack(cls, data: Any) -> Warmed:
        """What was packed. Raises MessageError for anything else."""
        return cls(
            data_field(data, "run", str),
            data_field(data, "requests", int),
            data_field(data, "ok", int),
            data_field(data, "error", (str, type(None))),
        )


def unpack_lease(data: Any) -> Lease:
    """The lease that was packed."""
    number = data_field(data, "number", (int, type(None)))
    rows = unpack_rows(data)
    if data.get("prefixes") is not None:
        prefixes = _unpack_prefixes(data_field(data, "prefixes", dict), len(rows))
        rows = [row._replace(prefix=prefix) for row, prefix in zip(rows, prefixes, strict=True)]
    return Lease(
        epoch=data_field(data, "epoch", int),
        seen_s=data_field(data, "seen_s", float),
        batches=data_field(data, "batches", int),
        number=number,
        rows=rows,
        limit=None if data_field(data, "limit", (list, type(None))) is None else Limit(*_counts(data, "limit", 2)),
    )


def unpack_rows(data: Any) -> list[Row]:
    """The rows in a message's field of that name."""
    rows = unpack_array(data, "rows", _ROW)
    if not np.isfinite(rows["due_s"]).all():
        raise MessageError("a row has no time")
    return [Row(*row) for row in rows.tolist()]


def pack_names(names: Names) -> dict[str, Any]:
    """Names of streams as plain data."""
    return {"streams": list(names.names), "mixed": names.mixed}


def unpack_names(data: Any) -> Names:
    """The names that were packed."""
    found = data_field(data, "streams", list)
    if not found or not all(isinstance(name, str) for name in found):
        raise MessageError("the field 'streams' of a message is no list of names")
    return Names(tuple(found), data_field(data, "mixed", bool))


def unpack_counts(data: Any, name: str, limit: int = _MANY) -> dict[int, int]:
    """Counts by stream, each below a limit: requests in flight, tokens that have come."""
    pairs = data_field(data, name, list)
    try:
        found = {int(stream): int(count) for stream, count in pairs}
    except (TypeError, ValueError):
        raise MessageError(f"the field {name!r} of a message is no list of pairs") from None
    if any(not 0 <= stream < 2**15 or not 0 <= count < limit for stream, count in found.items()):
        raise MessageError(f"the field {name!r} of a message holds what is no count")
    return found


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
    load = Load(*_counts(data, "load", 3))
    if not 0 <= load.in_flight < _MANY or not 0 <= load.waiting < _MANY:
        raise MessageError(f"a load of {load.in_flight} and {load.waiting} requests is none")
    return Report(
        epoch=data_field(data, "epoch", int),
        at_s=data_field(data, "at_s", float),
        leases=data_field(data, "leases", int),
        batches=[_unpack_batch(batch) for batch in data_field(data, "batches", list)],
        late_s=data_field(data, "late_s", float),
        leaving=data_field(data, "leaving", bool),
        load=load,
    )


def data_field(data: Any, name: str, kinds: type | tuple[type, ...]) -> Any:
    """A field of a message, checked for its type; a float must be finite."""
    if not isinstance(data, dict):
        raise MessageError(f"a message holds a {type(data).__name__} where there should be fields")
    value = data.get(name)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise MessageError(f"the field {name!r} of a message is a {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise MessageError(f"the field {name!r} of a message is {value}")
    return value


def _unpack_batch(data: Any) -> Batch:
    done, outcomes = unpack_array(data, "done", np.dtype("<i8")), unpack_array(data, "outcomes", np.dtype("u1"))
    dropped, epochs = unpack_array(data, "dropped", np.dtype("<i8")), unpack_array(data, "epochs", np.dtype("<i8"))
    if len(done) != len(outcomes) or len(dropped) != len(epochs):
        raise MessageError("the columns of a batch differ in length")
    if len(outcomes) and int(outcomes.max()) >= len(OUTCOMES):
        raise MessageError(f"{int(outcomes.max())} is no outcome")
    return Batch(data_field(data, "number", int), done, outcomes, dropped, epochs, data.get("payload"))


def pack_rows(rows: Sequence[Row]) -> bytes:
    """Rows as bytes."""
    return np.array([row[:-1] for row in rows], dtype=_ROW).tobytes()


def _pack_prefixes(rows: Sequence[Row]) -> dict[str, bytes] | None:
    """Length of each row's prefix, and what is in them; None where all are empty."""
    if not any(row.prefix for row in rows):
        return None
    lengths = np.array([len(row.prefix) for row in rows], dtype="<i4")
    flat = np.array([number for row in rows for number in row.prefix], dtype="<i8")
    return {"lengths": lengths.tobytes(), "flat": flat.tobytes()}


def _unpack_prefixes(data: Any, rows: int) -> list[tuple[int, ...]]:
    lengths, flat = unpack_array(data, "lengths", np.dtype("<i4")), unpack_array(data, "flat", np.dtype("<i8"))
    if len(lengths) != rows or (rows and int(lengths.min()) < 0) or int(lengths.sum(dtype=np.int64)) != len(flat):
        raise MessageError("the prefixes of a lease do not fit its rows")
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    numbers = flat.tolist()
    found = [tuple(numbers[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]
    if any(prefix and prefix[0] < 1 for prefix in found):
        raise MessageError("a block of a prefix in a lease has no token")
    return found


def _counts(data: Any, name: str, length: int) -> list[int]:
    """A list of so many whole numbers."""
    found: list[int] = data_field(data, name, list)
    if len(found) != length or any(type(value) is not int for value in found):
        raise MessageError(f"the field {name!r} of a message is no list of {length} whole numbers")
    return found


def unpack_array(data: Any, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A field that is an array's bytes."""
    try:
        return np.frombuffer(data_field(data, name, bytes), dtype=dtype)
    except ValueError as error:
        raise MessageError(f"the field {name!r} of a message cannot be read: {error}") from None
