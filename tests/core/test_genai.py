"""The conventions' histograms against the SDK's own, which is slow and sure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from measured import measurements, record
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from fineserve_shapes.measure.genai import (
    DURATION,
    FIRST_TOKEN,
    METRICS,
    PER_TOKEN,
    TOKENS,
    GenAiFigures,
    GenAiMetric,
    GenAiPoint,
    PointKey,
)
from fineserve_shapes.outcome import OUTCOMES

COUNTS = {(TOKENS, ("gen_ai.token.type", "input")), (TOKENS, ("gen_ai.token.type", "output"))}


def by_the_sdk(metric: GenAiMetric, values: list[float]) -> Any:
    """What the SDK's histogram makes of the values."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    histogram = provider.get_meter("twin").create_histogram(
        metric.name, explicit_bucket_boundaries_advisory=metric.bounds
    )
    for value in values:
        histogram.record(value)
    data: Any = reader.get_metrics_data()
    provider.shutdown()
    return data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0]


def plain(point: GenAiPoint) -> tuple[list[int], float, float, float]:
    return point.counts.tolist(), pytest.approx(point.total), point.least, point.most


def shown(points: dict[PointKey, GenAiPoint]) -> dict[tuple[str, int, tuple[str, str] | None], int]:
    """How many values each has."""
    return {(key.metric.name, key.stream, key.attribute): int(point.counts.sum()) for key, point in points.items()}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_values_fall_into_the_buckets_that_the_sdk_would_put_them_into(metric: GenAiMetric):
    """Those on a bound, below the first and above the last too, in whatever batches they come."""
    rng = np.random.default_rng(5)
    values = rng.permutation([*metric.bounds, 0.0, 2 * metric.bounds[-1], *rng.lognormal(-2, 3, 500)])
    point = GenAiPoint(metric.bounds)
    for batch in np.split(values, [1, 7, 200]):
        point.add(batch)
    twin = by_the_sdk(metric, values.tolist())
    assert (list(twin.bucket_counts), twin.sum, twin.min, twin.max) == plain(point)
    assert tuple(twin.explicit_bounds) == point.bounds


def test_a_whole_answer_counts_in_every_histogram():
    figures = GenAiFigures()
    figures.add(measurements([record(i, stream=i % 2) for i in range(10)]))
    every = {(metric.name, attribute) for metric, attribute in COUNTS} | {
        (metric.name, None) for metric in (DURATION, FIRST_TOKEN, PER_TOKEN)
    }
    assert shown(figures.points()) == {(name, stream, own): 5 for name, own in every for stream in (0, 1)}
    first = figures.points()[PointKey(FIRST_TOKEN, 0)]
    assert (first.total, first.least, first.most) == pytest.approx((1.0, 0.2, 0.2))


def test_what_is_not_known_is_not_counted():
    """Neither a usage that the server does not tell, nor the time per token of an answer of one token."""
    figures = GenAiFigures()
    figures.add(measurements([record(0, input_tokens=-1, output_tokens=1)]))
    assert set(shown(figures.points())) == {
        (DURATION.name, 0, None), (FIRST_TOKEN.name, 0, None), (TOKENS.name, 0, ("gen_ai.token.type", "output")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "status", "told"),
    [("http_error", 503, "503"), ("http_error", 429, "429"), ("stream_error", 200, "stream_error"),
     ("timeout", 200, "timeout"), ("connect_error", 0, "connect_error")],
)  # fmt: skip
def test_a_failure_has_its_duration_alone_by_its_kind(outcome: str, status: int, told: str):
    figures = GenAiFigures()
    figures.add(measurements([record(0, outcome, status=status), record(1, outcome, status=status)]))
    assert shown(figures.points()) == {(DURATION.name, 0, ("error.type", told)): 2}


def test_every_outcome_that_was_sent_is_a_duration_but_what_we_cancelled():
    figures = GenAiFigures()
    figures.add(measurements([record(i, outcome) for i, outcome in enumerate(OUTCOMES)]))
    found = {key[2] for key in shown(figures.points()) if key[0] == DURATION.name}
    assert found == {None} | {("error.type", told) for told in ("200", "stream_error", "timeout", "connect_error")}


def test_the_warm_up_stays_out():
    figures = GenAiFigures(warmup_s=0.5)
    figures.add(measurements([record(i) for i in range(10)]))
    assert shown(figures.points())[(DURATION.name, 0, None)] == 5


def test_what_was_taken_adds_up_to_the_whole():
    whole, taken = GenAiFigures(), GenAiFigures()
    counts = np.zeros(len(DURATION.bounds) + 1, dtype=np.int64)
    for start in (0, 3, 7):
        batch = measurements([record(i, end_s=0.1 * i + 0.5 * i) for i in range(start, start + 3)])
        whole.add(batch)
        taken.add(batch)
        counts += taken.take()[PointKey(DURATION, 0)].counts
    assert counts.tolist() == whole.points()[PointKey(DURATION, 0)].counts.tolist()
    assert taken.take() == {}
