"""Threshold: what a figure of a summary must keep to, such as `p99_ttft_ms<500`."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fineserve_shapes.errors import InputError

FLAG = "--threshold"

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_FORM = re.compile(r"\s*([^\s<>=]+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*(%?)\s*")


@dataclass(frozen=True, slots=True)
class Check:
    """What became of a threshold. value: the figure; None: it was not measured, which is a failure. passed. message: one
    line for a person."""

    name: str
    passed: bool
    value: float | None
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"check": self.name, "passed": self.passed, "value": self.value, "message": self.message}


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound on a figure.

    figure: its name in the summary; what lies deeper is reached by dots, as in `fidelity.lag_p99_ms`. sign: `<`, `<=`, `>`
    or `>=`. limit: in the figure's own unit.
    """

    figure: str
    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read `p99_ttft_ms<500` or `goodput.share>=95%`. Raises InputError."""
        found = _FORM.fullmatch(text)
        try:
            limit = float(found[3]) / (100 if found[4] else 1) if found else math.nan
        except ValueError:
            limit = math.nan
        if found is None or not math.isfinite(limit):
            raise InputError(
                f"{FLAG} must be a figure of the summary, one of {' '.join(_OPERATORS)}, and a number,"
                f" such as p99_ttft_ms<500, got {text.strip()!r}"
            )
        return cls(found[1], found[2], limit)

    @classmethod
    def parse_all(cls, text: str) -> list[Threshold]:
        """Read several, separated by commas or lines. Raises InputError."""
        return [cls.parse(part) for part in re.split(r"[,\n]", text) if part.strip()]

    def check(self, summary: Mapping[str, Any]) -> Check:
        """Hold a summary against it. Raises InputError for a figure that the summary has not."""
        value = self._value(dict(_figures(summary)))
        if value is None:
            return Check(
                str(self), False, None, f"{self.figure} was not measured, {self.sign} {self.limit:g} was asked"
            )
        passed = bool(_OPERATORS[self.sign](value, self.limit))
        return Check(str(self), passed, value, f"{self.figure} is {value:.6g}, {self.sign} {self.limit:g} was asked")

    def _value(self, figures: Mapping[str, float | None]) -> float | None:
        if self.figure not in figures:
            near = difflib.get_close_matches(self.figure, figures, n=1, cutoff=0.5)
            hint = f", did you mean {near[0]}?" if near else ""
            raise InputError(f"{FLAG}: the summary has no figure {self.figure!r}{hint}")
        return figures[self.figure]

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{self.limit:g}"


def _figures(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """All numbers of a summary, and what may be one, by name."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _figures(value, f"{name}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield name, value
