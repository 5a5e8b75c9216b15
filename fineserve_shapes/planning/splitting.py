"""Splitting: one trace that holds many models becomes a stream for each value of a column.

[streams.serving]
kind = "replay"
request_trace_csv = "trace.csv"
split_by = "model"

[streams.serving.split."org/model-8b"]   # without such tables every value has a stream, and is its model
name = "small"                           # of the stream; by default made of the value
model = "model-8b"
host = "http://127.0.0.1:8000"
share = 0.5                              # of the rows, picked at random
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fineserve_shapes import options
from fineserve_shapes.errors import InputError
from fineserve_shapes.streams import named_after
from fineserve_shapes.text import clipped
from fineserve_shapes.values import Values
from fineserve_shapes.workload.traces.selection import where_text
from fineserve_shapes.workload.traces.splitting import Value, split_values

MOST_STREAMS = 200


@dataclass(frozen=True, slots=True)
class Split:
    """The streams of a split: their tables by name. unplaced: usable rows that are in none of them, and note says which."""

    tables: Mapping[str, Mapping[str, Any]]
    unplaced: int
    note: str | None


def split(values: Values, own: Mapping[str, Any], column: str, places: Mapping[str, Any] | None) -> Split:
    """A stream for each value of the column, or for each of those that have a place.

    values: the options of the trace. own: what the streams have in common. Reads the trace once. Raises InputError.
    """
    path = values.path("--request-trace-csv")
    if path is None:
        raise InputError("no trace to split (--request-trace-csv)")
    trace = options.trace_options(values)
    found = [one for one in split_values(path, trace, column) if one.usable]
    known = {one.value: one for one in found if one.value}
    if places is None and len(known) > MOST_STREAMS:
        raise InputError(
            f"column {clipped(column)} has {len(known):,} values: name those that are to be streams, at most {MOST_STREAMS}"
        )
    wanted = {value: {"model": value} for value in known} if places is None else _checked(places, known, column)
    tables: dict[str, Mapping[str, Any]] = {}
    names = named_after([str(place.get("name") or value) for value, place in wanted.items()])
    for name, (value, place) in zip(names, wanted.items(), strict=True):
        table = {key: entry for key, entry in place.items() if key not in ("name", "share")}
        if "share" in place:
            table["keep_fraction"] = place["share"]
        where = where_text((*trace.where, (column, value)))
        tables[name] = {**own, "time_origin": "trace", **table, "where": where}
    return Split(tables, *_unplaced(found, wanted, column))


def _checked(places: Mapping[str, Any], known: Mapping[str, Value], column: str) -> dict[str, Mapping[str, Any]]:
    for value, place in places.items():
        if not isinstance(place, dict):
            raise InputError(f"split.{value} is no table")
        if value not in known:
            there = ", ".join(clipped(one, 40) for one in list(known)[:5])
            raise InputError(f"no usable row has {clipped(column)} {clipped(value)}: there are {there}")
    return dict(places)


def _unplaced(found: Sequence[Value], wanted: Mapping[str, Any], column: str) -> tuple[int, str | None]:
    left = [one for one in found if one.value not in wanted]
    rows = sum(one.usable for one in left)
    if not rows:
        return 0, None
    some = ", ".join(f"{clipped(one.value, 40) or '(none)'} ({one.usable:,})" for one in left[:5])
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return rows, f"{rows:,} rows are in no stream, by their {clipped(column)}: {some}{more}"
