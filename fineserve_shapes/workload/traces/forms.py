"""Forms of traces: the published ones, and which of a file's columns are ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.prefixblocks import BLOCK_TOKENS
from fineserve_shapes.workload.traces.selection import nearest
from fineserve_shapes.workload.traces.tracefile import TraceFile, listed
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

PREFIX_COLUMN = "hash_ids"  # Mooncake's name for the ids of shared blocks


class TraceColumns(NamedTuple):
    """Names of the three columns that make a trace."""

    timestamp: str
    input_length: str
    output_length: str


@dataclass(frozen=True, slots=True)
class Form:
    """A published trace, known by its three columns and by further ones.

    further: columns that it must have. without: columns that it must not have. alone: it has no column but the three.
    unit: of its timestamps, which count from the trace's start; None where they are date-times, which need none.
    block_tokens: how many tokens of a prompt stand behind one id of a shared block, where it has such ids.
    labels: further columns that say who asked for what, which a conversion keeps. latency: the column of how long an
    answer took, and how many of its units make a second. images: the column of how many images a request had.
    unknown_length: what stands for a length that was not recorded.
    """

    title: str
    columns: TraceColumns
    unit: str | None
    further: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    alone: bool = False
    block_tokens: int = BLOCK_TOKENS
    labels: tuple[str, ...] = ()
    latency: tuple[str, float] = ("latency", 1.0)
    images: str | None = None
    unknown_length: int | None = None

    def fits(self, names: Iterable[str], columns: TraceColumns) -> bool:
        """Whether a file with these names, of which three were found, is of this form."""
        present = frozenset(names)
        return (
            columns == self.columns
            and self.further <= present
            and not self.without & present
            and not (self.alone and any(name.partition(".")[0] not in columns for name in present))
        )


_PLAIN = TraceColumns("timestamp", "input_length", "output_length")
_BAILIAN = frozenset({"chat_id", "parent_chat_id", "turn", "type"})

_AZURE = TraceColumns("TIMESTAMP", "ContextTokens", "GeneratedTokens")

# The data of FineServe are in microseconds, whatever one of its READMEs says: the 30-100B day spans 8 hours so read,
# and 333 days read as milliseconds. Bailian's traces have all columns of Mooncake's, and neither its unit nor its blocks.
FORMS = (
    Form("the published FineServe form", _PLAIN, "us", frozenset({"latency", "architecture", "scale"})),
    Form(
        "the Bailian form", _PLAIN, "s", _BAILIAN, block_tokens=16,
        labels=("type", "turn", "chat_id", "parent_chat_id"),
    ),
    Form("the Mooncake form", _PLAIN, "ms", frozenset({PREFIX_COLUMN}), _BAILIAN),
    Form("the documented form of three columns", _PLAIN, "ms", alone=True),
    Form(
        "the BurstGPT form", TraceColumns("Timestamp", "Request tokens", "Response tokens"), "s",
        labels=("Model", "Log Type", "Session ID"),
    ),
    Form("the Azure form with images", _AZURE, None, frozenset({"NumImages"}), images="NumImages"),
    Form("the Azure form", _AZURE, None),
    Form(
        "the form of Azure's agents' trace", TraceColumns("timestamp", "tokens.prompt", "tokens.completion"), None,
        labels=("model", "session_id", "turn_id", "initiator_type", "result"), latency=("duration_ms", 1e3),
    ),
    Form(
        "the SwissAI form", TraceColumns("created_at", "reported_token_input", "reported_token_output"), None,
        labels=("model", "status"), unknown_length=-1,
    ),
)  # fmt: skip

# Columns whose presence decides what a file is taken for.
TELLING = frozenset({PREFIX_COLUMN}).union(*(form.further | form.without | set(form.columns) for form in FORMS))


def form_of(file: TraceFile, columns: TraceColumns) -> Form | None:
    """The published form of a file in which these columns were found; None where it has none that we know."""
    return next((form for form in FORMS if form.fits(file.names, columns)), None)


def form_of_lengths(file: TraceFile, lengths: tuple[str, str]) -> Form | None:
    """The same where the columns of the lengths alone were found."""
    return next((form for form in FORMS if form.fits(file.names, TraceColumns(form.columns[0], *lengths))), None)


ROLES = ("--timestamp-column", "--input-length-column", "--output-length-column")


def find_columns(file: TraceFile, options: TraceOptions) -> TraceColumns:
    """The three columns in this file: those named by flags, else those of a form we know.

    Raises InputError where one is missing or comes twice; so for the columns of the conditions.
    """
    found = [_find(file, options, role) for role in range(3)]
    if len(set(found)) < len(found):
        raise InputError(f"{file.path}: timestamp and lengths need three columns, got {listed(found)} ({ROLES[0]} ...)")
    _check(file, options, found)
    return TraceColumns(*found)


def find_prefixes(file: TraceFile, columns: TraceColumns, options: TraceOptions) -> int | None:
    """How many tokens stand behind each id of a shared block: what was asked for, what the file says, what is usual for
    its form; None where it has no such ids."""
    if PREFIX_COLUMN not in file.names:
        if options.prefix_block_tokens is not None:
            raise InputError(
                f"{file.path}: no column {PREFIX_COLUMN} (--prefix-block-tokens); it has {listed(file.names)}"
            )
        return None
    form = form_of(file, columns)
    return (
        options.prefix_block_tokens or file.stored_block_tokens or (BLOCK_TOKENS if form is None else form.block_tokens)
    )


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
        raise InputError(f"{file.path}: no column {' or '.join(known)} ({ROLES[role]}); it has {_described(file)}")
    return present[0]


def _described(file: TraceFile) -> str:
    """The columns that a file has, as they are written, and the flags that take those that may be meant."""
    text = listed(file.names)
    if file.header is not None:
        text += f": the header is {clipped(file.header, 200)!r}"
        if len(file.names) == 1:
            text += ", with neither a comma nor ; or tab or | between names"
    flags = []
    for role in range(3):
        known = [form.columns[role] for form in FORMS]
        meant = {_plainly(name) for name in known}
        if not set(known) & set(file.names):
            flags += [f"{ROLES[role]} {shlex.quote(name)}" for name in file.names if _plainly(name) in meant][:1]
    return f"{text}; is it {' '.join(flags)}?" if flags else text


def _plainly(name: str) -> str:
    """A name without what people write differently: case, blanks, underscores, hyphens."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _check(file: TraceFile, options: TraceOptions, found: Iterable[str]) -> None:
    """That the columns and those of the conditions are there, once each, and that there is one column of ids at most."""
    found = list(found)
    for name in found:
        if file.names.count(name) > 1:
            raise _twice(file, name)
    for condition in options.conditions:
        check_label(file, condition.column, found, condition.flag, "to filter by")
    if file.names.count(PREFIX_COLUMN) > 1:
        raise _twice(file, PREFIX_COLUMN)


def check_label(file: TraceFile, name: str, columns: Iterable[str], flag: str, what: str) -> None:
    """That a file has a column, once, whose values are read as texts. Raises InputError, with the nearest name and `what`
    the column is for."""
    if name not in file.names:
        raise InputError(
            f"{file.path}: no column {clipped(name)} {what} ({flag}){nearest(name, file.names)}; it has"
            f" {listed(file.names)}"
        )
    if name in columns or name == PREFIX_COLUMN:
        raise InputError(f"{file.path}: column {clipped(name)} holds numbers that are replayed, none {what} ({flag})")
    if file.names.count(name) > 1:
        raise _twice(file, name)


def _twice(file: TraceFile, name: str) -> InputError:
    return InputError(f"{file.path}: column {clipped(name)} comes {file.names.count(name)} times")
