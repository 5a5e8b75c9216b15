"""vLLM's page read, hostile ones refused, and samples thinned out."""

from __future__ import annotations

import time

import pytest

from fineserve_shapes.measure.serverseries import MAX_SAMPLES, ServerSeries, read_metrics

PAGE = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"b\\"\\n}"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 4.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.75
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0",model_name="a"} 5.0
vllm:generation_tokens_total{engine="0",model_name="a"} 1e3
vllm:time_to_first_token_seconds_bucket{le="0.1"} 7
"""


def test_engines_add_up_and_the_cache_is_their_mean():
    assert read_metrics(PAGE) == {
        "running": 7.0, "kv_cache_usage": 0.5, "preemptions": 5.0, "generation_tokens": 1000.0,
    }  # fmt: skip


def test_the_old_name_of_the_cache_is_known():
    assert read_metrics(b"vllm:gpu_cache_usage_perc 0.5") == {"kv_cache_usage": 0.5}


@pytest.mark.parametrize("page", [b"", b"<html>", b"\xff\xfe\x00", b"vllm:other 1\n", b"vllm:num_requests_running NaN"])
def test_a_page_without_them_gives_nothing(page: bytes):
    assert read_metrics(page) == {}


@pytest.mark.parametrize(
    "page", [b"vllm:num_requests_running{", b'vllm:num_requests_running{a="} 1', b"vllm:num_requests_running x"]
)
def test_a_broken_page_is_a_value_error(page: bytes):
    with pytest.raises(ValueError, match="no page of Prometheus text"):
        read_metrics(page)


def test_a_long_page_is_read_quickly():
    page = PAGE + b"\n".join(b'vllm:e2e_request_latency_seconds_bucket{le="%d"} 1' % n for n in range(20_000))
    begin_s = time.perf_counter()
    read_metrics(page)
    assert time.perf_counter() - begin_s < 0.5


def test_counters_grow_by_the_sum_of_their_steps_across_a_restart():
    series = ServerSeries()
    for at_s, count in enumerate((10.0, 15.0, 15.0, 2.0, 4.0)):
        series.add(at_s, {"preemptions": count, "running": count})
    assert series.figures()["preemptions"] == 5 + 0 + 2 + 2
    assert series.figures()["max_running"] == 15.0
    assert series.figures()["mean_waiting"] is None
    assert series.as_dict(2.0)["at_s"] == [3, 4]


def test_cached_prompt_tokens_and_accepted_drafts_are_what_came_during_the_run():
    """vLLM's counters go on from whatever the server did before."""
    page = """vllm:prompt_tokens_total{{engine="0"}} {0}
vllm:prompt_tokens_by_source_total{{engine="0",source="local_compute"}} 7
vllm:prompt_tokens_cached_total{{engine="0"}} {1}
vllm:prompt_tokens_cached_by_source_total{{engine="0",source="device"}} 7
vllm:prefix_cache_queries_total{{engine="0"}} {0}
vllm:prefix_cache_hits_total{{engine="0"}} {1}
vllm:spec_decode_num_drafts_total{{engine="0"}} {2}
vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {3}
vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {4}
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",position="0"}} 7
"""
    series = ServerSeries()
    for at_s, counts in enumerate([(1000, 500, 10, 30, 20), (1600, 700, 60, 180, 95), (2000, 900, 110, 330, 170)]):
        series.add(at_s, read_metrics(page.format(*counts).encode()))
    found = series.figures()
    assert (found["prompt_tokens"], found["cached_prompt_tokens"]) == (1000, 400)
    assert found["prefix_cache_hit_rate"] == 0.4
    assert (found["draft_acceptance_rate"], found["mean_acceptance_length"]) == (0.5, 2.5)


def test_an_older_servers_cached_tokens_are_its_prefix_caches_hits():
    series = ServerSeries()
    for at_s, hits in enumerate((10.0, 14.0)):
        series.add(at_s, read_metrics(f"vllm:gpu_prefix_cache_hits_total {hits}".encode()))
    found = series.figures()
    assert found["cached_prompt_tokens"] == 4.0
    assert found["draft_acceptance_rate"] is None
    assert found["prefix_cache_hit_rate"] is None


def test_memory_is_bounded_and_the_newest_samples_stay():
    series = ServerSeries()
    for at_s in range(100_000):
        series.add(at_s, {"running": 1.0, "preemptions": float(at_s)})
    found = series.as_dict()
    assert len(found["at_s"]) <= MAX_SAMPLES
    assert found["at_s"] == sorted(found["at_s"])
    assert found["at_s"][-1000:] == list(range(99_000, 100_000))
    assert set(found["running"]) == {1.0}
    assert all(at_s == count for at_s, count in zip(found["at_s"], found["preemptions"], strict=True))
