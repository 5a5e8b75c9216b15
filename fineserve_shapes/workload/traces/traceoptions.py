"""TraceOptions: how a recorded trace is to be read, cleaned, cut and smoothed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.selection import Condition, checked_where

UNITS = ("auto", "s", "ms", "us", "ns")
TIME_ORIGINS = ("selection", "trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How to read a trace. They act in this order: select, clean, slice, spread within an interval, cap gaps.

    timestamp_column, input_length_column, output_length_column: None takes the names of the traces we know.
    timestamp_unit: unit of numeric timestamps; "auto" finds it out or asks.
    prefix_block_tokens: tokens of a prompt behind each id of a shared block; None takes those of the trace's form.
    max_model_len: the model's context in tokens (input and output together); None checks nothing.
    missing_timestamp: rows without a timestamp are dropped, or are an error.
    below_one: rows with an input or output length under 1 are dropped, raised to 1 ("clamp"), or are an error.
    beyond_max_model_len: rows longer than the context are clamped, dropped, or are an error. To clamp cuts the output
        to what the context leaves; an input that leaves no room is cut to max_model_len - 1 and has one output token.
    architecture, scale: keep only such rows; spellings of the published files are alike (``<10B`` is ``lt10B``).
    where: keep only rows whose columns hold these values, as texts; an empty value stands for a missing one.
    time_origin: trace second 0 is the first row that is selected and usable ("selection"), or the first of all rows of
        the file that has a timestamp ("trace"), so that parts of one trace keep their places beside each other.
    start_at_s, duration_s: the slice [start, start + duration) in trace seconds; its start becomes time 0. None lasts to
        the end.
    spread_within_s: times are drawn anew, uniformly within their interval of this length (from time 0), since some
        loggers stamp arrivals at whole seconds.
    max_gap_s: longer gaps between arrivals (and before the first of a slice) shrink to this.
    seed: of the spreading.

    Raises InputError, naming the value and its flag.
    """

    timestamp_column: str | None = None
    input_length_column: str | None = None
    output_length_column: str | None = None
    timestamp_unit: str = "auto"
    prefix_block_tokens: int | None = None
    max_model_len: int | None = None
    missing_timestamp: str = "drop"
    below_one: str = "drop"
    beyond_max_model_len: str = "clamp"
    architecture: str | None = None
    scale: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    time_origin: str = "selection"
    start_at_s: float = 0.0
    duration_s: float | None = None
    spread_within_s: float | None = None
    max_gap_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_choice("timestamp_unit", UNITS)
        self._check_choice("missing_timestamp", ("drop", "error"))
        self._check_choice("below_one", ("drop", "clamp", "error"))
        self._check_choice("beyond_max_model_len", ("clamp", "drop", "error"))
        self._check_choice("time_origin", TIME_ORIGINS)
        object.__setattr__(self, "where", checked_where(self.where))
        if self.prefix_block_tokens is not None and self.prefix_block_tokens < 1:
            raise InputError(f"a block has at least 1 token, got {self.prefix_block_tokens} (--prefix-block-tokens)")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise InputError(f"a context must hold at least 2 tokens, got {self.max_model_len} (--max-model-len)")
        if not (math.isfinite(self.start_at_s) and self.start_at_s >= 0):
            raise InputError(f"the slice must start at 0 or later, got {self.start_at_s} (--start-at)")
        for name in ("duration_s", "spread_within_s", "max_gap_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be finite and above 0, got {value} ({_flag(name)})")
        if self.seed < 0:
            raise InputError(f"the seed must not be negative, got {self.seed} (--seed)")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise InputError(f"{_flag(name)} is one of {', '.join(choices)}, got {value!r}")

    def identity(self) -> dict[str, object]:
        """The options as plain values, for a fingerprint; those of a selection by columns where there is one, so that
        other fingerprints stay what they were."""
        unset = [name for name, usual in (("where", ()), ("time_origin", "selection")) if getattr(self, name) == usual]
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in unset}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What a row must meet to be selected."""
        published = tuple(
            Condition(name, value, f"--{name}", loose=True)
            for name in ("architecture", "scale")
            if (value := getattr(self, name)) is not None
        )
        return published + tuple(Condition(column, value) for column, value in self.where)


def _flag(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")
