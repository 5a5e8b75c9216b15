"""Traces for tests: where the published ones lie, and what is read of one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from fineserve_shapes.workload.traces.columns import Columns, joined
from fineserve_shapes.workload.traces.trace import Trace, TraceOptions

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DENSE = DATA / "fineserve" / "replay" / "Dense_30to100B.csv"
AZURE = DATA / "azure" / "AzureLLMInferenceTrace_code.csv"
MOONCAKE = DATA / "mooncake" / "conversation_trace_head.jsonl"

Row = tuple[str, str, str]  # time, input and output length, as a file has them

MINIMAL = "timestamp,input_length,output_length"
PUBLISHED = "input_length,output_length,latency,timestamp,architecture,scale"


def read(trace: Trace) -> Columns:
    """All kept rows."""
    return joined(list(trace.blocks()))


def rows(trace: Trace) -> list[tuple[float, int, int]]:
    """Time, input and output tokens of all kept rows."""
    columns = read(trace)
    return list(
        zip(columns.time_s.tolist(), columns.input_tokens.tolist(), columns.output_tokens.tolist(), strict=True)
    )


def real(path: Path) -> pytest.MarkDecorator:
    """Skips a test where a published trace is missing."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path.name} is not beside the checkout")


def plainly(trace_rows: Sequence[Row], options: TraceOptions) -> tuple[list[tuple[float, int, int]], Counter[str]]:
    """The same by the plain csv way: one row after the other."""
    reasons: Counter[str] = Counter()
    kept = []
    for time, input_text, output_text in trace_rows:
        inputs, outputs = int(input_text), int(output_text)
        if time == "":
            reasons["missing_timestamp"] += 1
            continue
        if inputs < 1 or outputs < 1:
            if options.below_one == "drop":
                reasons["below_one"] += 1
                continue
            inputs, outputs = max(inputs, 1), max(outputs, 1)
        if options.max_model_len is not None and inputs + outputs > options.max_model_len:
            if options.beyond_max_model_len == "drop":
                reasons["beyond_max_model_len"] += 1
                continue
            inputs = min(inputs, options.max_model_len - 1)
            outputs = min(outputs, options.max_model_len - inputs)
        kept.append((float(time), inputs, outputs))
    kept.sort(key=lambda row: row[0])
    per_second = {"ms": 1e3, "us": 1e6}[options.timestamp_unit]
    timed = [((time - kept[0][0]) / per_second - options.start_at_s, *lengths) for time, *lengths in kept]
    end_s = math.inf if options.duration_s is None else options.duration_s
    inside = [row for row in timed if 0 <= row[0] < end_s]
    reasons["outside_slice"] = len(timed) - len(inside)
    return inside, reasons
