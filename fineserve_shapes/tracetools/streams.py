"""Streams of one trace: the values of a column as a table for a person, and as the file of a mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from fineserve_shapes.errors import InputError
from fineserve_shapes.streams import named_after
from fineserve_shapes.text import clipped
from fineserve_shapes.tracetools.inspection import figure
from fineserve_shapes.workload.traces.selection import where_text
from fineserve_shapes.workload.traces.splitting import Value
from fineserve_shapes.workload.traces.survey import human_span
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

_WIDTH = 40  # of a value in the table


def text(column: str, values: Sequence[Value]) -> str:
    """The values for a person, a line each."""
    usable = sum(value.usable for value in values)
    width = max(len(column), *(len(_shown(value)) for value in values))
    titles = ("rows", "usable", "share", "first", "last", "rate/s", "input", "output")
    lines = [column.ljust(width) + "".join(f"{title:>12}" for title in titles)]
    for value in values:
        share = f"{100 * value.usable / usable:.2f} %"
        lines.append(
            f"{_shown(value):<{width}}{value.rows:>12,}{value.usable:>12,}{share:>12}{_span(value.first_s):>12}"
            f"{_span(value.last_s):>12}{figure(value.rate_rps):>12}{_mean(value.input_tokens):>12}"
            f"{_mean(value.output_tokens):>12}"
        )
    lines.append(f"{_many(sum(1 for value in values if value.value), 'value')}, {_many(usable, 'usable row')}")
    lines += [
        f"without a {_comment(column)}: {_many(value.rows, 'row')}, of which {value.usable:,} usable"
        for value in values
        if not value.value
    ]
    return "\n".join(lines)


def mix(path: Path, column: str, values: Sequence[Value], options: TraceOptions, given: Mapping[str, str]) -> str:
    """A mix as TOML: what is common to all, and a stream for each value that has a usable row.

    Together the streams send what a replay of the whole trace would, at the same times, but for rows without a value.
    given: the options that say how the trace is read, by their names in a mix. Raises InputError where there is no stream.
    """
    streams = [value for value in values if value.value and value.usable]
    if not streams:
        raise InputError(f"{path}: no usable row has a {clipped(column)}, so there is no stream for a mix (--mix)")
    lines = [
        f"# {_many(len(streams), 'stream')} of {_comment(path.name)}, by its column {_comment(column)}.",
        "# Say where each is to go, in its host and model.",
    ]
    for value in values:
        if not value.usable:
            lines.append(f"# In no stream, since no row of it is usable: {_shown(value)}")
        elif not value.value:
            lines.append(f"# In no stream, since they have no {_comment(column)}: {_many(value.usable, 'usable row')}")
    common = {name: value for name, value in given.items() if name != "where"} | {"time_origin": "trace"}
    lines += ["", "[defaults]", *(f"{name} = {_quoted(value)}" for name, value in common.items())]
    for name, value in zip(named_after([value.value for value in streams]), streams, strict=True):
        span = f"from {_span(value.first_s)} to {_span(value.last_s)}"
        means = f"{_mean(value.input_tokens)} and {_mean(value.output_tokens)}"
        lines += [
            "",
            f"[streams.{name}]",
            f"# {_many(value.usable, 'request')} {span}, mean lengths {means} tokens",
            'kind = "replay"',
            f"request_trace_csv = {_quoted(str(path))}",
            f"where = {_quoted(where_text((*options.where, (column, value.value))))}",
            '# host = "http://127.0.0.1:8000"',
            f"# model = {_quoted(value.value)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A basic string of TOML, whose escapes JSON's are, but for one character."""
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _comment(name: str) -> str:
    return clipped(name, 200)


def _shown(value: Value) -> str:
    return clipped(value.value, _WIDTH) if value.value else "(none)"


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else human_span(seconds)


def _mean(tokens: float | None) -> str:
    return "-" if tokens is None else f"{tokens:,.0f}"
