"""The Prometheus families against the totals that they are read from."""

from __future__ import annotations

import numpy as np
import pytest
from measured import record
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from test_feed import FakeRun, begun

from fineserve_shapes.measure.histogram import RELATIVE_ERROR, Histogram
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.webui.feed import Feed
from fineserve_shapes.webui.prometheus import RunCollector, buckets


def page_of(feed: Feed) -> str:
    registry = CollectorRegistry()
    registry.register(RunCollector(feed))
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_before_a_run_there_is_nothing():
    assert page_of(Feed()) == ""


def test_the_families_are_the_totals():
    run = FakeRun(5.0)
    run.take([record(i, stream=i % 2) for i in range(10)])
    found = samples(page_of(begun(run)))
    for stream in ("all", "1"):
        label = ("stream", stream)
        assert found["fineserve_requests_total", (("outcome", "ok"), label)] == 5
        assert found["fineserve_requests_total", (("outcome", "timeout"), label)] == 0
        assert found["fineserve_output_tokens_total", (label,)] == 55
        assert found["fineserve_good_requests_total", (label,)] == 5
        assert found["fineserve_ttft_seconds_count", (label,)] == 5
        assert found["fineserve_ttft_seconds_sum", (label,)] == pytest.approx(1.0)
        assert found["fineserve_ttft_seconds_bucket", (("le", "0.1"), label)] == 0
        assert found["fineserve_ttft_seconds_bucket", (("le", "0.25"), label)] == 5
    assert found["fineserve_ledger_requests", (("outcome", "ok"),)] == 10
    assert found["fineserve_ledger_requests", (("outcome", "open"),)] == 0
    assert found["fineserve_requests_in_flight", (("stream", "1"),)] == 4


def test_without_an_slo_there_is_no_count_of_good_requests():
    run = FakeRun(5.0)
    run.tally = Tally()
    run.take([record(0)])
    assert "good" not in page_of(begun(run))


def test_buckets_are_cumulative_counts_within_the_histograms_error():
    values_s = np.random.default_rng(4).lognormal(-3, 1.5, 20_000)
    histogram = Histogram()
    histogram.record(values_s)
    bounds_s = (0.001, 0.01, 0.05, 0.1, 1.0, 10.0)
    found = buckets(histogram, bounds_s)
    assert found[-1] == ("+Inf", 20_000)
    for bound_s, (_, count) in zip(bounds_s, found, strict=False):
        assert (values_s <= bound_s).sum() <= count <= (values_s <= bound_s * (1 + 3 * RELATIVE_ERROR)).sum()
