"""Streams: the parts of a run that have a name, options and a kind of request of their own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.names import ALONE, Names
from fineserve_shapes.values import Values

TABLE = "fineserve_streams"
"""The attribute of the parsed command line in which Locust hands the streams from the master to its workers."""

_TOTAL = "total"  # what all streams of a run together are called
_LONGEST = 48
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One stream of a run.

    name: of letters, digits, `_`, `.` and `-`. number: its place among the streams of the run. user: the name of the user
    class that sends its requests; None: the only one that the locustfile has. own: options that are the stream's own, by
    attribute. values: all its options, the run's where it has none of its own. mixed: it is one of a mix, if the only one.
    """

    name: str = ALONE
    number: int = 0
    user: str | None = None
    own: Mapping[str, str | bool] = field(default_factory=dict)
    values: Values = field(default_factory=lambda: Values(None))
    mixed: bool = False


def checked_name(name: str) -> str:
    """The name. Raises InputError for one that would not do in a file's name, a header or a label."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the name of a stream is of letters, digits, '_', '.' and '-', at most 64 of them, got {name!r}"
        )
    if name == _TOTAL:
        raise InputError("a stream cannot be called 'total', which is what all streams together are called")
    return name


def named_after(texts: Sequence[str]) -> list[str]:
    """A name for each text, no two alike: of small letters, digits and hyphens.

    >>> named_after(["Model A", "model-a", "Qwen/Qwen3-32B", "?"])
    ['model-a', 'model-a-2', 'qwen-qwen3-32b', 'stream']
    """
    taken: dict[str, None] = {}
    last: dict[str, int] = {}
    for text in texts:
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
        stem = re.sub(r"[^a-z0-9]+", "-", plain)[:_LONGEST].strip("-") or "stream"
        name = stem
        while name in taken or name == _TOTAL:
            last[stem] = last.get(stem, 1) + 1
            name = f"{stem}-{last[stem]}"
        taken[name] = None
    return list(taken)


def names_of(streams: Sequence[Stream]) -> Names:
    """Their names, by number."""
    return Names(tuple(stream.name for stream in streams), any(stream.mixed for stream in streams))


def publish(streams: Sequence[Stream], parsed: Any) -> None:
    """Put the streams where Locust takes them to the workers, as plain data."""
    setattr(parsed, TABLE, [[one.name, one.user, dict(one.own), one.mixed] for one in streams])


def published(parsed: Any) -> tuple[Stream, ...]:
    """The streams that the master told; where it told none, the one of a run that is no mix."""
    values = Values(parsed)
    table = getattr(parsed, TABLE, None) or [[ALONE, None, {}, False]]
    return tuple(
        Stream(name, number, user, own, values.over(own), mixed)
        for number, (name, user, own, mixed) in enumerate(table)
    )
