"""Surveyor: a process that reads a long trace to its end, at the lowest priority, and prints what it found.

`python -m fineserve_shapes.workload.traces.surveyprocess PATH OPTIONS`, with the options as JSON; one line of JSON comes
out.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import orjson

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.survey import TraceSurvey
from fineserve_shapes.workload.traces.trace import open_trace
from fineserve_shapes.workload.traces.traceoptions import TraceOptions


def arguments(path: str, options: TraceOptions) -> list[str]:
    """The command that surveys this trace."""
    return [
        sys.executable,
        "-m",
        "fineserve_shapes.workload.traces.surveyprocess",
        path,
        orjson.dumps(options.identity()).decode(),
    ]


def survey_of(printed: bytes) -> TraceSurvey:
    """What the process printed, as a value. Raises ValueError where that is none."""
    values = orjson.loads(printed)
    if not isinstance(values, dict):
        raise ValueError("no survey")
    try:
        return TraceSurvey(**{**values, "warnings": tuple(values["warnings"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"no survey: {error}") from error


def main() -> int:
    """Survey; the exit code."""
    parent = os.getppid()
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    def end_with_parent() -> None:
        if os.getppid() != parent:
            sys.exit(1)

    try:
        trace = open_trace(sys.argv[1], TraceOptions(**orjson.loads(sys.argv[2])))
        survey = trace.read_survey(end_with_parent)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.buffer.write(orjson.dumps(asdict(survey)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
