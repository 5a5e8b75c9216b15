"""Mix file: the streams of a mix as TOML, and what may stand in it.

    request_rate = 10            # of all streams with a weight together

    [defaults]                   # of every stream
    slo = "ttft=2s"

    [streams.chat]
    kind = "poisson"             # or replay, or parametric
    weight = 3
    model = "small"
    host = "http://127.0.0.1:8000"

A table may have every option of its kind, of the server, of prompts and of the verdict, by the name that it has on the
command line, and `kind`, `user` (a class of the locustfile), `host`, `weight` or `rate`, `run_time`, and the `preset` of
the simulator where that stands in. What a stream does not say it has from `[defaults]`, and what these do not say from the
command line. `split_by` makes a stream of each value of a trace's column (see `splitting`). Paths are taken from the
folder of the file where they lead to something there.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fineserve_shapes import options
from fineserve_shapes.errors import InputError
from fineserve_shapes.options import Option
from fineserve_shapes.planning.splitting import split
from fineserve_shapes.streams import Stream, checked_name
from fineserve_shapes.values import Values, dest

KINDS: Mapping[str, tuple[Option, ...]] = {
    "replay": options.TRACE,
    "poisson": options.POISSON,
    "parametric": options.PARAMETRIC,
}
"""What workloads a stream can have, and the options that each reads."""

OF_STREAMS = ("kind", "user", "host", "weight", "rate", "run_time", "preset")
"""Keys of a stream's table that are no options of ours on the command line."""

_OF_ALL = (*options.SERVER, *options.PROMPTS, *(one for one in options.RUN if one.flag in options.JUDGED))
_SWITCHES = frozenset(one.dest for table in (*KINDS.values(), _OF_ALL) for one in table if one.default is None)
_CHOICES = {one.dest: one.choices for table in (*KINDS.values(), _OF_ALL) for one in table if one.choices}
_PATHS = ("request_trace_csv", "request_lengths_csv", "gamma_params_csv", "parametric_data_root", "parametric_nb_json",
          "dataset_path", "tokenizer", "ca_file")  # fmt: skip
_NOTHING: Mapping[str, str | bool] = {one.dest: "" for one in options.MIX if one.flag != "--mix"} | {"run_time": ""}
"""Options of the whole mix: on the command line they act on all of it, so a stream does not have them from there."""


@dataclass(frozen=True, slots=True)
class Mix:
    """The streams of a mix. unplaced: usable rows of traces that are split which are in no stream; notes say which."""

    streams: tuple[Stream, ...]
    unplaced: int = 0
    notes: tuple[str, ...] = ()


def read_mix(path: Path, values: Values) -> Mix:
    """The streams of a file, in its order. values: the command line's. Raises InputError with the place in the file."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()} (--mix)") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error} (--mix)") from None
    try:
        for key in found.keys() - {"defaults", "streams", "request_rate"}:
            raise InputError(_unknown(key, ("defaults", "streams", "request_rate")))
        tables, defaults = found.get("streams"), _table(found.get("defaults", {}), "[defaults]")
        if not isinstance(tables, dict) or not tables:
            raise InputError("it has no [streams.NAME] tables")
        shared = _own(defaults, "[defaults]", path.parent, None)
        streams = []
        for name, table in tables.items():
            own = _table(table, f"[streams.{name}]")
            kind = str(own.get("kind") or shared.get("kind") or "")
            fitting = {key: value for key, value in shared.items() if key in _keys(kind if kind in KINDS else None)}
            streams.append(Stream(name, own={**fitting, **own}))
        rate = found.get("request_rate")
        return checked_mix(streams, values, "" if rate is None else str(rate), path.parent)
    except InputError as error:
        raise InputError(f"{path}: {error} (--mix)") from None


def checked_mix(streams: Sequence[Stream], values: Values, request_rate: str = "", folder: Path = Path()) -> Mix:
    """Streams with numbers and values, each with a seed of its own, made of the run's and its name; those with `split_by`
    become a stream for each value of that column.

    request_rate: of streams with a weight, where the command line says none. folder: where paths begin. Raises InputError.
    """
    typed: list[tuple[str, dict[str, str | bool], str | None]] = []
    unplaced, notes = 0, []
    for stream in streams:
        where = f"stream {checked_name(stream.name)}"
        kind = _kind(str(stream.own.get("kind") or ""), where)
        given = dict(stream.own)
        column, places = given.pop("split_by", None), given.pop("split", None)
        own = _own(given, where, folder, kind)
        if column is None and places is None:
            typed.append((stream.name, own, stream.user))
            continue
        if not isinstance(column, str) or kind != "replay":
            raise InputError(f"{where}: split_by is the name of a column of a trace that is replayed, got {column!r}")
        try:
            parts = split(
                values.over({**_NOTHING, **own}), own, column, None if places is None else _table(places, "split")
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        unplaced += parts.unplaced
        notes += [] if parts.note is None else [f"{where}: {parts.note}"]
        typed += [
            (name, _own(table, f"stream {name}", folder, kind), stream.user) for name, table in parts.tables.items()
        ]
    names = [name for name, _, _ in typed]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two streams are called {name}")
    rates = _rates({name: own for name, own, _ in typed}, values.text("--request-rate") or request_rate)
    found = []
    for number, (name, asked, user) in enumerate(typed):
        own = {**_NOTHING, **asked, **rates.get(name, {})}
        own["seed"] = str(seed_of(options.seed(values.over(own)), name))
        found.append(Stream(name, number, str(own.get("user") or "") or user, own, values.over(own), mixed=True))
    return Mix(tuple(found), unplaced, tuple(notes))


def seed_of(seed: int, name: str) -> int:
    """The seed of the stream of that name: the same whatever other streams there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6])


def _rates(streams: Mapping[str, Mapping[str, str | bool]], request_rate: str) -> dict[str, dict[str, str]]:
    """The rates of streams that have a share of one, by the stream's name."""
    weights: dict[str, float] = {}
    for name, own in streams.items():
        given = [key for key in ("weight", "rate", "request_rate") if own.get(key)]
        if len(given) > 1:
            raise InputError(f"stream {name} has a {given[0]} and a {given[1]}: one of them says how much it sends")
        if own.get("weight"):
            weight = Values(None, own).number("--weight")
            if weight is None or weight <= 0:
                raise InputError(f"stream {name}: a weight is above 0, got {own['weight']}")
            weights[name] = weight
    if not weights:
        return {}
    rate_rps = Values(None, {"request_rate": request_rate}).number("--request-rate")
    if rate_rps is None or rate_rps <= 0:
        raise InputError(
            f"stream {next(iter(weights))} has a weight: say the rate of all such streams together (request_rate = 10, "
            "or --request-rate)"
        )
    return {name: {"rate": repr(rate_rps * weight / sum(weights.values()))} for name, weight in weights.items()}


def _kind(kind: str, where: str) -> str:
    if kind not in KINDS:
        said = f"kind is one of {', '.join(KINDS)}, got {kind!r}" if kind else "it says no kind: " + " or ".join(KINDS)
        raise InputError(f"{where}: {said}")
    return kind


def _keys(kind: str | None) -> frozenset[str]:
    """What a table may have; None: of any kind."""
    kinds = [KINDS[kind]] if kind else KINDS.values()
    return frozenset((*OF_STREAMS, *(one.dest for table in (*kinds, _OF_ALL) for one in table)))


def _table(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise InputError(f"{where} is no table")
    return found


def _own(table: Mapping[str, Any], where: str, folder: Path, kind: str | None) -> dict[str, str | bool]:
    """A table's entries as options: text, or True and False for switches."""
    known = _keys(kind)
    own: dict[str, str | bool] = {}
    for key, value in table.items():
        name = dest(key)
        if name not in known:
            raise InputError(f"{where}: {_unknown(key, known, kind)}")
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise InputError(f"{where}: {key} is true or false, got {value!r}")
            own[name] = value
            continue
        own[name] = _text(value, f"{where}: {key}")
        if name in _CHOICES and own[name] not in (_CHOICES[name] or ()):
            raise InputError(f"{where}: {key} is one of {', '.join(_CHOICES[name] or ())}, got {own[name]!r}")
        if name in _PATHS and own[name] and (path := folder / str(own[name])).exists():
            own[name] = str(path.absolute())
    return own


def _text(value: Any, where: str) -> str:
    """A value as it would be typed."""
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        return ",".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where} is a text, a number or a table, got {value!r}")
    return str(value)


def _unknown(key: str, known: Sequence[str] | frozenset[str], kind: str | None = None) -> str:
    name = dest(key)
    of_others = [other for other, table in KINDS.items() if other != kind and name in {one.dest for one in table}]
    if kind and of_others:
        return f"{key} is read by {' and '.join(of_others)}, not by a stream of kind {kind}"
    if name in {one.dest for one in options.RUN}:
        return f"{key} is the whole run's: give it on the command line"
    return f"there is no {key!r}" + "".join(_near(name, known))


def _near(name: str, known: Sequence[str] | frozenset[str]) -> Iterator[str]:
    for close in difflib.get_close_matches(name, sorted(known), 1):
        yield f": did you mean {close}?"
