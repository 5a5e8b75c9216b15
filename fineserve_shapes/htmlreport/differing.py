"""Differing: runs beside each other, each set against the first, as a table of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fineserve_shapes.htmlreport.cells import number, signed
from fineserve_shapes.htmlreport.configuration import configuration, parted, side_by_side
from fineserve_shapes.htmlreport.source import RunData
from fineserve_shapes.measure.comparison import CONFIDENCE, Difference, differences
from fineserve_shapes.measure.resampling import Figure, resample
from fineserve_shapes.text import shorten

_MEAN = {"mean": "mean"}
_QUANTILES = {"median": "p50", "p90": "p90", "p99": "p99"}
FIGURES = {
    **{
        f"{name}_{latency}_ms": f"{title} {quantile}, ms"
        for latency, title in (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2e_latency", "E2E"))
        for name, quantile in ((_MEAN if latency == "itl" else {}) | _QUANTILES).items()
    },
    "steady.request_throughput": "requests/s, steady window",
    "steady.output_throughput": "output tokens/s, steady window",
    "goodput.rps": "goodput, requests/s",
    "goodput.share": "share in the SLO, %",
}  # fmt: skip
"""What is compared, by its name in the summary."""
_INVALID = "invalid"
LEVEL = f"{CONFIDENCE:.0%}".replace("%", " %")
LEGEND = (
    f"Changes are against the first run, with their {LEVEL} interval (bootstrap over blocks of time). *: the interval"
    " leaves out 0; of twenty figures one does so by chance. No interval: too few requests, or a file that has no more"
    " than the value."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of a run. change, interval, ratio: against the first run's, as text; empty where there is none.

    sure: the interval leaves out 0, and both runs are valid. uncertain: one of the two is not.
    """

    value: str
    change: str = ""
    interval: str = ""
    ratio: str = ""
    sure: bool = False
    uncertain: bool = False

    @property
    def mark(self) -> str:
        """A star where the change is sure."""
        return "*" if self.sure else "not certain" if self.uncertain else ""


@dataclass(frozen=True, slots=True)
class Table:
    """One column for each run.

    labels: of the runs. verdicts: of fidelity, with their reasons. differs: rows of the configuration in which the runs
    differ. figures: by title. warnings: which differences are not certain, and why.
    """

    labels: list[str]
    verdicts: list[tuple[str, str]]
    differs: list[tuple[str, list[str]]]
    figures: list[tuple[str, list[Cell]]]
    warnings: list[str]

    @classmethod
    def of(cls, runs: Sequence[RunData]) -> Table:
        """Of two runs or more."""
        labels = labels_of(runs)
        found = [figures_of(run, rng) for run, rng in zip(runs, np.random.default_rng(0).spawn(len(runs)), strict=True)]
        against = [_against(run, figures, runs[0], found[0]) for run, figures in zip(runs, found, strict=True)]
        invalid = [run.fidelity.get("verdict") == _INVALID for run in runs]
        rows = []
        for name, title in FIGURES.items():
            if any(name in figures for figures in found):
                cells = [
                    _cell(
                        name,
                        figures.get(name),
                        by_name.get(name),
                        uncertain=place > 0 and (invalid[0] or invalid[place]),
                    )
                    for place, (figures, by_name) in enumerate(zip(found, against, strict=True))
                ]
                rows.append((title, cells))
        differs, _ = parted(side_by_side(runs, configuration))
        return cls(
            labels,
            [
                (number(run.fidelity.get("verdict")), "; ".join(map(str, run.fidelity.get("reasons") or [])))
                for run in runs
            ],
            [(name, [number(value) for value in values]) for name, values in differs],
            rows,
            _warnings(labels, invalid),
        )


def labels_of(runs: Sequence[RunData]) -> list[str]:
    """The name of each run; one that occurs twice gets its place."""
    names = [shorten(run.name, 60) for run in runs]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def figures_of(run: RunData, rng: np.random.Generator) -> dict[str, Figure]:
    """Of its requests, and what the summary alone knows, such as quantiles of the gaps between tokens."""
    found = resample(run.sample, rng)
    told = {name: value for name in FIGURES if name not in found and (value := _told(run.summary, name)) is not None}
    return found | {name: Figure(value, None) for name, value in told.items()}


def _told(summary: Mapping[str, Any], name: str) -> float | None:
    found: Any = summary
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _against(
    run: RunData, figures: Mapping[str, Figure], first: RunData, before: Mapping[str, Figure]
) -> dict[str, Difference]:
    """The first run against itself does not differ; where SLOs do, goodput is not of the same thing."""
    if run is first:
        return {}
    alike = run.tally.slo == first.tally.slo
    return {one.name: one for one in differences(before, figures) if alike or not one.name.startswith("goodput")}


def _cell(name: str, figure: Figure | None, change: Difference | None, *, uncertain: bool) -> Cell:
    if figure is None:
        return Cell(number(None))
    scale = 100.0 if name.endswith("share") else 1.0
    value = number(scale * figure.value)
    if change is None:
        return Cell(value)
    interval = "" if change.low is None or change.high is None else (
        f"{signed(scale * change.low)} to {signed(scale * change.high)}"
    )  # fmt: skip
    ratio = "" if change.ratio is None or scale != 1.0 else f"{signed(100 * change.ratio)} %"
    return Cell(value, signed(scale * change.change), interval, ratio, change.sure and not uncertain, uncertain)


def _warnings(labels: Sequence[str], invalid: Sequence[bool]) -> list[str]:
    wrong = [label for label, bad in zip(labels, invalid, strict=True) if bad]
    if not wrong:
        return []
    are = "is" if len(wrong) == 1 else "are"
    whose = "no difference is" if invalid[0] else f"{'its' if len(wrong) == 1 else 'their'} differences are not"
    return [
        f"{', '.join(wrong)} {are} invalid: what was asked for was not delivered, or not measured well, so {whose} certain"
    ]
