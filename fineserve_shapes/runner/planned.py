"""Planned: a run that is ready to start, with all that its options ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fineserve_shapes.engine.run import Settings
from fineserve_shapes.measure.thresholds import Threshold
from fineserve_shapes.runner.step import Step
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values
from fineserve_shapes.workload.plan import Plan


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that is ready to start: all that its options ask for, as values. tables: where --csv's go, if anywhere. plan:
    the step's, up to the run time."""

    step: Step
    plan: Plan
    streams: tuple[Stream, ...]
    values: Values
    settings: Settings
    drain_timeout_s: float
    output_file: Path | None
    tables: list[Path]
    thresholds: list[Threshold]
    junit: Path | None
