"""Traces for tests: where the published ones lie, and what is read of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fineserve_shapes.workload.traces.columns import Columns, joined
from fineserve_shapes.workload.traces.trace import Trace

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DENSE = DATA / "fineserve" / "replay" / "Dense_30to100B.csv"
AZURE = DATA / "azure" / "AzureLLMInferenceTrace_code.csv"
MOONCAKE = DATA / "mooncake" / "conversation_trace_head.jsonl"

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
