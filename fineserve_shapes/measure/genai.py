"""GenAI: requests that ended as the histograms of OpenTelemetry's conventions for generative AI, in their own buckets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure import records
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.outcome import FAILURES, OK, OUTCOMES, Outcome

_WHOLE_S = tuple(0.01 * 2**doubled for doubled in range(14))
_FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class GenAiMetric:
    """One histogram of the conventions. bounds: the largest values of its buckets, ascending; one more holds the rest."""

    name: str
    unit: str
    what: str
    bounds: tuple[float, ...]


DURATION = GenAiMetric("gen_ai.client.operation.duration", "s", "time from sending a request to the end of its answer",
                       _WHOLE_S)  # fmt: skip
TOKENS = GenAiMetric("gen_ai.client.token.usage", "{token}", "tokens of prompts and answers, by the server's usage",
                     tuple(4.0**power for power in range(14)))  # fmt: skip
FIRST_TOKEN = GenAiMetric("gen_ai.server.time_to_first_token", "s", "time from sending a request to its first token",
                          _FIRST_S)  # fmt: skip
PER_TOKEN = GenAiMetric("gen_ai.server.time_per_output_token", "s", "time per output token after the first", _TOKEN_S)
METRICS = (DURATION, TOKENS, FIRST_TOKEN, PER_TOKEN)
"""In the conventions' buckets."""

ERROR_TYPE = "error.type"
TOKEN_TYPE = "gen_ai.token.type"


@dataclass(frozen=True, slots=True)
class PointKey:
    """What the values of one histogram have in common. attribute: its name and value, beside those of the stream."""

    metric: GenAiMetric
    stream: int
    attribute: tuple[str, str] | None = None


@dataclass(slots=True)
class GenAiPoint:
    """Values counted by bucket: each is at most its bucket's bound, and above the one before it."""

    bounds: tuple[float, ...]
    counts: IntArray = field(init=False)
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.bounds) + 1, dtype=np.int64)

    def add(self, values: FloatArray) -> None:
        """Count values, shape (n,), n above 0."""
        self.counts += np.bincount(np.searchsorted(self.bounds, values), minlength=len(self.counts))
        self.total += float(values.sum())
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))


class GenAiFigures:
    """A follower of a tally: the histograms of requests that were answered or failed.

    Durations are those of both, of failures by `error.type`; all others are those of whole answers. What we cancelled is
    neither. warmup_s: rows due before that time stay out.
    """

    def __init__(self, warmup_s: float = 0.0) -> None:
        self._warmup_s = warmup_s
        self._points: dict[PointKey, GenAiPoint] = {}

    def plan(self, streams: IntArray, due_s: FloatArray) -> None:
        """The plan is not shown."""

    def add(self, measured: Measurements) -> None:
        """What a worker measured: a batch costs the same for one request as for a hundred, nearly."""
        rows = measured.records[measured.records["due_s"] >= self._warmup_s]
        for stream in np.unique(rows["stream"]).tolist():
            mine = rows[rows["stream"] == stream]
            for metric, attribute, values in _values(mine):
                known = values[values >= 0]  # neither NaN (no such moment) nor -1 (not known)
                if len(known):
                    key = PointKey(metric, stream, attribute)
                    self._points.setdefault(key, GenAiPoint(metric.bounds)).add(known)

    def points(self) -> dict[PointKey, GenAiPoint]:
        """All so far."""
        return dict(self._points)

    def take(self) -> dict[PointKey, GenAiPoint]:
        """All since the last call."""
        points, self._points = self._points, {}
        return points


def _values(rows: records.Records) -> Iterator[tuple[GenAiMetric, tuple[str, str] | None, FloatArray]]:
    ok = rows[rows["outcome"] == OK]
    yield DURATION, None, records.e2e_s(ok)
    yield TOKENS, (TOKEN_TYPE, "input"), ok["input_tokens"].astype(np.float64)
    yield TOKENS, (TOKEN_TYPE, "output"), ok["output_tokens"].astype(np.float64)
    yield FIRST_TOKEN, None, records.ttft_s(ok)
    yield PER_TOKEN, None, records.tpot_s(ok)
    for outcome in FAILURES:
        failed = rows[rows["outcome"] == OUTCOMES.index(outcome)]
        by_status = outcome == Outcome.HTTP_ERROR
        for status in np.unique(failed["status"]).tolist() if by_status else [None]:
            those = failed if status is None else failed[failed["status"] == status]
            yield DURATION, (ERROR_TYPE, str(status) if status else str(outcome)), records.e2e_s(those)
