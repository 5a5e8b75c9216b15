"""Which pages of metrics are read: one for each host that a stream takes for vLLM, and what the summary has of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import pytest

from fineserve_shapes.client.scrape import ServerScrape
from fineserve_shapes.client.target import Target
from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.runner.observers import Observers, server_scrapes
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values


def run() -> Run:
    return Run([], 0, Settings(), local=True)


def urls(*streams: tuple[str | None, str], endpoint: str | None = None, **options: object) -> list[str]:
    """The pages for streams of these hosts and backends."""
    own = [{"backend": backend} | ({"endpoint": endpoint} if endpoint else {}) for _, backend in streams]
    values = [Values(None, each) for each in own]
    asked = [Stream(f"s{number}", number, own=each, values=values[number]) for number, each in enumerate(own)]
    found = server_scrapes(Values(Namespace(**options)), asked, [host for host, _ in streams], run())
    return [scrape.url for scrape in found]


def test_a_host_that_streams_share_is_read_once():
    assert urls(("http://a:1", "vllm"), ("http://b:1", "vllm"), ("http://a:1/v1", "vllm")) == [
        "http://a:1/metrics", "http://b:1/metrics",
    ]  # fmt: skip


def test_only_what_is_taken_for_vllm_is_read():
    assert urls(("http://a:1", "openai"), (None, "vllm"), ("http://b:1", "vllm")) == ["http://b:1/metrics"]


@pytest.mark.parametrize(("asked", "found"), [("off", []), ("http://c:9/m?x=1", ["http://c:9/m"])])
def test_one_page_or_none_may_be_asked_for(asked: str, found: list[str]):
    assert urls(("http://a:1", "vllm"), ("http://b:1", "vllm"), scrape_server_metrics=asked) == found


def finished(scrapes: Sequence[ServerScrape]) -> dict[str, Any]:
    observers = Observers(None, Namespace())
    observers.feed.begin(run(), dict, scrapes)
    summary: dict[str, Any] = {}
    observers.finish(summary)
    return summary


def scrape(url: str, *tokens: float) -> ServerScrape:
    found = ServerScrape(Target(url), "/metrics", lambda: 0.0, insist=False)
    for second, count in enumerate(tokens):
        found.series.add(float(second), {"generation_tokens": count})
    return found


def test_of_one_host_there_are_its_figures_and_of_several_those_of_each():
    one = finished([scrape("http://a:1", 5.0, 9.0)])["server_metrics"]
    several = finished([scrape("http://a:1", 5.0, 9.0), scrape("http://b:1")])["server_metrics"]
    assert (one["url"], one["generation_tokens"]) == ("http://a:1/metrics", 4.0)
    assert list(several) == ["hosts"]
    assert several["hosts"]["http://a:1/metrics"] == {name: value for name, value in one.items() if name != "url"}
    assert several["hosts"]["http://b:1/metrics"]["samples"] == 0


def test_where_no_host_answered_there_are_none():
    assert finished([scrape("http://a:1"), scrape("http://b:1")]) == {}
