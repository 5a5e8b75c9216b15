"""Lengths: how many tokens go in and come out, recorded in pairs or described by laws."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray

from ..errors import InputError

# Past any model's context; a larger one was meant in another unit.
MAX_TOKENS = 10**9
LawName = Literal["fixed", "normal", "uniform", "lognormal", "exponential"]


class Lengths(Protocol):
    """Something that says how long requests are."""

    def sample(self, rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
        """Input and output tokens of n requests, each of shape (n,) and at least 1."""


@dataclass(frozen=True, slots=True)
class LengthSource:
    """Lengths, what decides them (for a fingerprint), and what they are, for the log."""

    lengths: Lengths
    identity: dict[str, object]
    line: str


@dataclass(frozen=True, slots=True, eq=False)
class RecordedPairs:
    """Pairs drawn with replacement from recorded ones, so that input and output keep their correlation.

    Parameters
    ----------
    input_tokens, output_tokens : IntArray, shape (m,)
        Recorded lengths, each at least 1; m at least 1.
    """

    input_tokens: IntArray
    output_tokens: IntArray

    def __post_init__(self) -> None:
        if not len(self.input_tokens) or len(self.input_tokens) != len(self.output_tokens):
            raise InputError(
                "recorded lengths come in pairs, at least one: got "
                f"{len(self.input_tokens)} input and {len(self.output_tokens)} output lengths"
            )
        for name, tokens in (("input", self.input_tokens), ("output", self.output_tokens)):
            if tokens.min() < 1:
                row = int(np.argmin(tokens))
                raise InputError(f"{name} lengths must be at least 1, got {tokens[row]} in pair {row + 1}")

    def sample(self, rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
        """Input and output tokens of n requests, each of shape (n,)."""
        rows = rng.integers(len(self.input_tokens), size=n)
        return self.input_tokens[rows], self.output_tokens[rows]


@dataclass(frozen=True, slots=True)
class Law:
    """A law of one length. Draws are rounded to whole numbers and raised to 1 where they are below.

    Parameters
    ----------
    name : {"fixed", "normal", "uniform", "lognormal", "exponential"}
        Which law.
    values : tuple of float
        fixed: (length,). normal: (mean, standard deviation). uniform: (lowest, highest), both drawn, whole numbers.
        lognormal: (mean, coefficient of variation) of the length itself. exponential: (mean,).

    Notes
    -----
    Raising to 1 moves the mean of a normal law whose standard deviation is not small against its mean: N(480, 240) has
    2.3 % of its mass below 1 and a mean of 482. A lognormal law with mean M and CV c is exp(N(log M - s^2/2, s^2)) with
    s^2 = log(1 + c^2).
    """

    name: LawName
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        known = LAWS[self.name]
        if len(self.values) != len(known):
            raise InputError(f"the law {self.name} takes {', '.join(known)}, got {len(self.values)} values")
        for key, value in zip(known, self.values, strict=True):
            least, most = (0, MAX_TOKENS) if key in ("sd", "cv") else (1, MAX_TOKENS)
            if not least <= value <= most:
                raise InputError(f"{key} of the law {self.name} must lie between {least} and {most}, got {value:g}")
        if self.name in ("fixed", "uniform") and any(value % 1 for value in self.values):
            raise InputError(f"the law {self.name} takes whole numbers, got {self}")
        if self.name == "uniform" and self.values[0] > self.values[1]:
            raise InputError(f"the law uniform takes the lowest length first, got {self}")

    def __str__(self) -> str:
        """The law in the notation that `parse_law` reads."""
        numbers = ",".join(f"{value:g}" if value % 1 else str(int(value)) for value in self.values)
        return numbers if self.name == "fixed" else f"{self.name}({numbers})"

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """Lengths, shape (n,), each at least 1."""
        match self.name:
            case "fixed":
                return np.full(n, int(self.values[0]), np.int64)
            case "uniform":
                return rng.integers(int(self.values[0]), int(self.values[1]), size=n, endpoint=True)
            case "normal":
                drawn: FloatArray = rng.normal(self.values[0], self.values[1], size=n)
            case "lognormal":
                mean, cv = self.values
                variance = math.log1p(cv**2)
                drawn = rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), size=n)
            case "exponential":
                drawn = rng.exponential(self.values[0], size=n)
        return np.rint(np.clip(drawn, 1, MAX_TOKENS)).astype(np.int64)


LAWS: dict[LawName, tuple[str, ...]] = {
    "fixed": ("length",),
    "normal": ("mean", "sd"),
    "uniform": ("lowest", "highest"),
    "lognormal": ("mean", "cv"),
    "exponential": ("mean",),
}
SHORT: dict[str, LawName] = {
    "": "fixed",
    "D": "fixed",
    "N": "normal",
    "U": "uniform",
    "L": "lognormal",
    "E": "exponential",
    **{name: name for name in LAWS},
}
GRAMMAR = "a number, N(mean,sd), U(lowest,highest), L(mean,cv) or E(mean)"


@dataclass(frozen=True, slots=True)
class DescribedLengths:
    """Input and output lengths from two laws, drawn independently of each other."""

    input_law: Law
    output_law: Law

    def sample(self, rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
        """Input and output tokens of n requests, each of shape (n,)."""
        return self.input_law.sample(rng, n), self.output_law.sample(rng, n)


def parse_law(text: str, default: LawName = "fixed") -> Law:
    """Read a law.

    Parameters
    ----------
    text : str
        `128`; `N(480,240)` or `normal(480,240)`: mean and standard deviation; `U(100,900)` or `uniform(100,900)`:
        lowest and highest; `L(400,1.2)` or `lognormal(400,1.2)`: mean and coefficient of variation; `E(400)` or
        `exponential(400)`: mean; `D(128)` or `fixed(128)`. Values may be named: `lognormal(mean=400, cv=1.2)`.
    default : str
        The law of values in bare parentheses.

    Raises
    ------
    InputError
        If the text is none of these or a value is out of its range.
    """
    match = re.fullmatch(r"\s*(?:([A-Za-z]*)\s*\(([^()]*)\)|([0-9]+))\s*", text)
    if match is None or (match[1] or "") not in SHORT:
        raise InputError(f"a length is {GRAMMAR}, got {text!r}")
    name = (SHORT[match[1]] if match[1] else default) if match[3] is None else "fixed"
    known = LAWS[name]
    values: dict[str, float] = {}
    for place, part in enumerate((match[3] or match[2]).split(",")):
        key, _, number = part.rpartition("=")
        key = key.strip() or (known[place] if place < len(known) else "")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if key not in known or key in values or not math.isfinite(value):
            raise InputError(f"the law {name} takes {', '.join(known)}, got {part.strip()!r} in {text!r}")
        values[key] = value
    if len(values) < len(known):
        raise InputError(f"the law {name} takes {', '.join(known)}, got {text!r}")
    return Law(name, tuple(values[key] for key in known))


def parse_scenario(text: str) -> DescribedLengths:
    """Read a pair of laws, `N(480,240)/(300,150)`: input before the slash, output after it.

    Bare parentheses after the slash repeat the law before it.
    """
    halves = text.split("/")
    if len(halves) != 2:
        raise InputError(f"a pair of lengths is INPUT/OUTPUT, each {GRAMMAR}; got {text!r}")
    input_law = parse_law(halves[0])
    return DescribedLengths(input_law, parse_law(halves[1], default=input_law.name))


@dataclass(frozen=True, slots=True, eq=False)
class ClippedLengths:
    """Lengths that fit a model's context, and how many had to be cut for it.

    input_tokens, output_tokens: shape (n,). inputs_cut, outputs_cut: numbers of requests.
    """

    input_tokens: IntArray
    output_tokens: IntArray
    inputs_cut: int
    outputs_cut: int


def clip_lengths(input_tokens: IntArray, output_tokens: IntArray, max_model_len: int) -> ClippedLengths:
    """Cut lengths so that input + output is at most max_model_len.

    The output gives way first, since a server would end it there itself; the input only where it leaves no room for
    one token.

    Raises
    ------
    InputError
        If max_model_len is below 2, which holds no request.
    """
    if max_model_len < 2:
        raise InputError(f"a model's context must hold 2 tokens or more, got {max_model_len} (--max-model-len)")
    inputs = np.minimum(input_tokens, max_model_len - 1)
    outputs = np.minimum(output_tokens, max_model_len - inputs)
    return ClippedLengths(inputs, outputs, int((inputs < input_tokens).sum()), int((outputs < output_tokens).sum()))
