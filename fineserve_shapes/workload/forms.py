"""Forms of traces: which of a file's columns are ours, and what its timestamps mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.timestamps import DATE_TIME, DATE_TIMES_PER_SECOND, PER_SECOND, TimestampUnit
from fineserve_shapes.workload.tracefile import TraceFile, listed, shortened
from fineserve_shapes.workload.traceoptions import TraceOptions


class TraceColumns(NamedTuple):
    """Names of the three columns that make a trace."""

    timestamp: str
    input_length: str
    output_length: str


@dataclass(frozen=True, slots=True)
class Form:
    """A published trace, known by its three columns and the further ones that it must have.

    unit is None where the timestamps are date-times, which need none.
    """

    title: str
    columns: TraceColumns
    further: frozenset[str]
    unit: str | None


# The data of FineServe are in microseconds, whatever one of its READMEs says: the 30-100B day spans 8 hours so read,
# and 333 days read as milliseconds.
FORMS = (
    Form(
        "the published FineServe form",
        TraceColumns("timestamp", "input_length", "output_length"),
        frozenset({"latency", "architecture", "scale"}),
        "us",
    ),
    Form(
        "the Mooncake form",
        TraceColumns("timestamp", "input_length", "output_length"),
        frozenset({"hash_ids"}),
        "ms",
    ),
    Form(
        "the BurstGPT form",
        TraceColumns("Timestamp", "Request tokens", "Response tokens"),
        frozenset(),
        "s",
    ),
    Form(
        "the Azure form",
        TraceColumns("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        frozenset(),
        None,
    ),
)


ROLES = ("--timestamp-column", "--input-length-column", "--output-length-column")


def find_columns(file: TraceFile, options: TraceOptions) -> TraceColumns:
    """The three columns in this file: those named by flags, else those of a form we know.

    Raises InputError where one is missing or comes twice; so for the columns of the filters.
    """
    found = [_find(file, options, role) for role in range(3)]
    if len(set(found)) < len(found):
        raise InputError(f"{file.path}: timestamp and lengths need three columns, got {listed(found)} ({ROLES[0]} ...)")
    _check(file, options, found)
    return TraceColumns(*found)


def find_length_columns(file: TraceFile, options: TraceOptions) -> tuple[str, str]:
    """The columns of the lengths alone."""
    found = _find(file, options, 1), _find(file, options, 2)
    if found[0] == found[1]:
        raise InputError(f"{file.path}: lengths need two columns, got {listed(found)} ({ROLES[1]}, {ROLES[2]})")
    _check(file, options, found)
    return found


def _find(file: TraceFile, options: TraceOptions, role: int) -> str:
    name = (options.timestamp_column, options.input_length_column, options.output_length_column)[role]
    known = list(dict.fromkeys(form.columns[role] for form in FORMS)) if name is None else [name]
    present = [candidate for candidate in known if candidate in file.names]
    if not present:
        raise InputError(f"{file.path}: no column {' or '.join(known)} ({ROLES[role]}); it has {listed(file.names)}")
    return present[0]


def _check(file: TraceFile, options: TraceOptions, found: Iterable[str]) -> None:
    """That the columns and those of the filters are there, once each."""
    for name in (*found, *options.filters):
        if name not in file.names:
            raise InputError(f"{file.path}: no column {name} to filter by (--{name}); it has {listed(file.names)}")
        if file.names.count(name) > 1:
            raise InputError(f"{file.path}: column {shortened(name)} comes {file.names.count(name)} times")


def find_unit(file: TraceFile, columns: TraceColumns, asked: str) -> TimestampUnit:
    """What the timestamps mean: what the file says, else what was asked for, else what its form says.

    Date-times need no unit. Raises InputError where "auto" cannot know.
    """
    told = file.told_unit(columns.timestamp)
    if told == DATE_TIME:
        if asked != "auto":
            raise InputError(
                f"{file.path}: column {columns.timestamp} holds date-times, which have no unit"
                f" (leave --timestamp-unit at auto, got {asked})"
            )
        return TimestampUnit(DATE_TIME, DATE_TIMES_PER_SECOND, "they are written as date-times", certain=True)
    if asked != "auto":
        return TimestampUnit(asked, PER_SECOND[asked], "--timestamp-unit")
    if told is not None:
        return TimestampUnit(told, PER_SECOND[told], "stored in the file's metadata", certain=True)
    for form in FORMS:
        if form.unit is not None and columns == form.columns and form.further <= set(file.names):
            return TimestampUnit(form.unit, PER_SECOND[form.unit], form.title)
    if set(file.names) == set(columns):
        return TimestampUnit("ms", PER_SECOND["ms"], "only the three required columns: the format's documented unit")
    raise InputError(
        f"{file.path}: the unit of column {columns.timestamp} cannot be told from the columns {listed(file.names)};"
        " say --timestamp-unit s, ms, us or ns"
    )
