"""Inspection: what a trace holds and how bursty it is, as values, as JSON and as text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fineserve_shapes.arrays import IntArray
from fineserve_shapes.measure.dispersion import BurstinessMeter
from fineserve_shapes.rounding import rounded
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.traces.survey import TraceSurvey, human_span

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_BINNED = 1 << 17  # lengths below it are counted in an array; few are longer than any context


@dataclass(slots=True)
class LengthMeter:
    """Counts of every length that occurs: exact quantiles in memory that does not grow with the number of rows."""

    counts: IntArray = field(default_factory=lambda: np.zeros(_BINNED, dtype=np.int64))
    long: dict[int, int] = field(default_factory=dict)
    total: float = 0.0
    squares: float = 0.0

    def add(self, tokens: IntArray) -> None:
        """Take some lengths, shape (n,)."""
        as_float = tokens.astype(np.float64)
        self.total += float(as_float.sum())
        self.squares += float(np.square(as_float).sum())
        is_long = tokens >= _BINNED
        if is_long.any():
            for value in tokens[is_long].tolist():
                self.long[value] = self.long.get(value, 0) + 1
            tokens = tokens[~is_long]
        self.counts += np.bincount(tokens, minlength=_BINNED)

    def result(self) -> dict[str, float]:
        """Mean, standard deviation, least, greatest and quantiles (the smallest length with so large a share)."""
        binned = np.flatnonzero(self.counts)
        values = np.concatenate([binned, np.array(sorted(self.long), dtype=np.int64)])
        counts = np.concatenate([self.counts[binned], [self.long[value] for value in sorted(self.long)]])
        cumulative = np.cumsum(counts)
        n = int(cumulative[-1])
        mean = self.total / n
        found = {"mean": mean, "sd": math.sqrt(max(self.squares / n - mean**2, 0.0))}
        for q in QUANTILES:
            found[f"p{100 * q:g}"] = int(values[np.searchsorted(cumulative, q * n - 1e-9)])
        return found | {"min": int(values[0]), "max": int(values[-1])}


@dataclass(slots=True)
class Inspector:
    """Takes the blocks of a plan, one after the other."""

    arrivals: BurstinessMeter = field(default_factory=BurstinessMeter)
    inputs: LengthMeter = field(default_factory=LengthMeter)
    outputs: LengthMeter = field(default_factory=LengthMeter)
    products: float = 0.0

    def add(self, block: Block) -> None:
        """Take a block."""
        self.arrivals.add(block.due_s)
        self.inputs.add(block.input_tokens)
        self.outputs.add(block.output_tokens)
        self.products += float((block.input_tokens.astype(np.float64) * block.output_tokens).sum())

    def result(self) -> dict[str, Any]:
        """The figures, by the names that `inspect --json` gives them; None where there are too few rows to tell."""
        found = self.arrivals.result()
        inputs, outputs = self.inputs.result(), self.outputs.result()
        spread = inputs["sd"] * outputs["sd"]
        covariance = self.products / found.requests - inputs["mean"] * outputs["mean"]
        return {
            "requests": found.requests,
            "span_s": found.span_s,
            "rate_rps": found.rate_rps,
            "gap_cv": found.gap_cv,
            "dispersion": {str(width): value for width, value in found.dispersion.items()},
            "input_tokens": inputs,
            "output_tokens": outputs,
            "length_correlation": covariance / spread if spread > 0 else None,
        }


def inspect(blocks: Iterable[Block]) -> dict[str, Any]:
    """The figures of all blocks; see `Inspector`. There is at least one row."""
    inspector = Inspector()
    for block in blocks:
        inspector.add(block)
    return inspector.result()


def with_survey(figures: dict[str, Any], survey: TraceSurvey) -> dict[str, Any]:
    """The figures with what was read, kept and dropped."""
    return {
        "name": survey.name,
        **survey.counts(),
        "timestamp_unit": survey.timestamp_unit,
        "unit_reason": survey.unit_reason,
        "prefix_block_tokens": survey.prefix_block_tokens,
        "warnings": list(survey.warnings),
        **figures,
    }


def text(report: dict[str, Any]) -> str:
    """The figures for a person."""
    lines = [f"{report['name']}: {report['rows']:,} rows, {report['kept']:,} kept"]
    left_out = {
        "filtered out": report["filtered"],
        "outside of the slice": report["outside_slice"],
        **report["dropped"],
    }
    lines += [f"  dropped  {count:>12,}  {reason}" for reason, count in left_out.items() if count]
    lines += [f"  clamped  {count:>12,}  {reason}" for reason, count in report["clamped"].items() if count]
    lines.append(f"timestamps: {report['timestamp_unit']} ({report['unit_reason']})")
    if report["prefix_block_tokens"] is not None:
        lines.append(f"shared blocks of {report['prefix_block_tokens']} tokens")
    lines.append(
        f"span {human_span(report['span_s'])} ({report['span_s']:,.6g} s), {report['requests']:,} requests,"
        f" mean rate {figure(report['rate_rps'])}/s"
    )
    dispersion = ", ".join(f"{figure(value)} at {width} s" for width, value in report["dispersion"].items())
    lines.append(f"gaps: CV {figure(report['gap_cv'])}; counts: dispersion {dispersion}")
    names = ("mean", "p1", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "max")
    lines.append(f"{'tokens':<8}" + "".join(f"{name:>9}" for name in names))
    for side in ("input", "output"):
        lengths = report[f"{side}_tokens"]
        lines.append(f"{side:<8}" + "".join(f"{lengths[name]:>9,.0f}" for name in names))
    lines.append(f"correlation of input and output length: {figure(report['length_correlation'])}")
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return "\n".join(lines)


def figure(value: float | None) -> str:
    """Four digits, or a dash where there is no figure."""
    return "-" if value is None else rounded(value, 4)
