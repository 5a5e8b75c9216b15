"""A mix in the LLM tab and the report, in a real browser: its table, the curves of its streams, and its hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium, needs_chromium
from pages import open_page, until
from runs import ROOT, cluster
from test_llm_tab import OVER, POINTS, told

from fineserve_shapes.simulator.process import SimulatorProcess

pytestmark = needs_chromium

MIX = """
[defaults]
kind = "poisson"
input_length = 50
output_length = 10
run_time = 5

[streams.chat]
rate = 8
host = "{first}"
slo = "ttft=2s"

[streams.7]
rate = 4
host = "{first}/v1"

[streams.batch]
rate = 2
host = "{second}"
output_length = 20
"""
STREAMS = ["chat", "7", "batch"]
BY_STREAM = {"rate", "in_flight", "ttft", "ttft_p99", "tpot", "tokens", "lag"}
ROWS = """return [...document.querySelectorAll('#fineserve .streams tbody tr')].map((row) => [row.dataset.stream,
    Object.fromEntries([...row.querySelectorAll('td')].map((cell) => [cell.dataset.column, cell.textContent]))])"""
COLOURS = """return Object.fromEntries([...document.querySelectorAll('#fineserve figure')].flatMap((figure) =>
    figure.querySelector('.plot').data.map((trace) => [`${figure.dataset.chart} ${trace.name}`, trace.line.color])))"""
SWATCHES = """return [...document.querySelectorAll('.swatch')].map((found) => '#' + getComputedStyle(found).backgroundColor
    .match(/[0-9]+/g).map((part) => (+part).toString(16).padStart(2, '0')).join(''))"""
BOX = "#fineserve tr[data-stream='{}'] input"


def lines(browser: Browser) -> dict[str, set[str]]:
    """The streams that have a line, by chart."""
    return {chart: {*STREAMS} & {*traces} for chart, traces in browser.run(POINTS).items() if chart in BY_STREAM}


def await_lines(browser: Browser, *streams: str) -> None:
    until(lambda: lines(browser) == {chart: {*streams} for chart in BY_STREAM})


def asked(browser: Browser, *streams: str) -> dict[str, Any]:
    """What the JSON route says with these streams' columns."""
    found: dict[str, Any] = browser.run(
        "const request = new XMLHttpRequest(), wanted = new URLSearchParams(arguments[0].map((name) => ['stream', name]));"
        "request.open('GET', new URL(`fineserve/llm.json?${wanted}`, location.href.split('?')[0]), false);"
        "request.send();"
        "return JSON.parse(request.responseText)",
        list(streams),
    )
    return found


def assert_the_table_is_what_the_route_says(browser: Browser) -> None:
    rows, shown = told(browser)["rows"], dict(browser.run(ROWS))
    assert list(shown) == ["total", *STREAMS]
    for name, row in {"total": rows["total"], **{row["name"]: row for row in rows["streams"]}}.items():
        for column in ("planned", "ok", "failed", "in_flight"):
            assert shown[name][column] == f"{row[column]:,}", (name, column)
        for column in ("asked_rps", "sent_rps", "lag_p99_ms", "ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms"):
            assert float(shown[name][column].replace(",", "")) == pytest.approx(row[column], rel=6e-4), (name, column)
        assert shown[name]["verdict"][2:] == row["verdict"]
    assert [row["planned"] for row in rows["streams"]] != [0, 0, 0]
    assert rows["total"]["planned"] == sum(row["planned"] for row in rows["streams"])
    good = {name: shown[name]["good_share"] for name in shown}
    assert (good["7"], good["batch"], good["total"]) == ("–", "–", good["chat"])
    assert float(good["chat"].removesuffix(" %")) == pytest.approx(100 * rows["total"]["good_share"], abs=0.5)


def test_streams_are_toggled_in_light_and_dark(tmp_path: Path):
    report, summary_file = tmp_path / "report.html", tmp_path / "summary.json"
    with (
        SimulatorProcess(ttft_ms=40, itl_ms=5) as first,
        SimulatorProcess(ttft_ms=80, itl_ms=10) as second,
        cluster(tmp_path) as locust,
        chromium(tmp_path) as browser,
    ):
        mix = tmp_path / "mix.toml"
        mix.write_text(MIX.format(first=first.url, second=second.url))
        page = open_page(
            locust,
            "--mix",
            mix,
            "--report",
            report,
            "--output-file",
            summary_file,
            file=ROOT / "locustfiles" / "mix.py",
        )
        assert page.swarm()["success"] is True
        until(lambda: json.loads(page.get("/stats/requests"))["state"] != "ready")
        browser.open(f"{page.url}/?tab=llm")
        browser.until(OVER, timeout_s=60)
        await_lines(browser, *STREAMS)
        assert_the_table_is_what_the_route_says(browser)
        found, drawn = asked(browser, *STREAMS), browser.run(POINTS)
        for name in STREAMS:
            columns = found["series"]["streams"][name]
            assert drawn["rate"][name] == columns["sent"]
            assert drawn["ttft"][name] == columns["ttft"]["p50_ms"]
            assert drawn["ttft_p99"][name] == columns["ttft"]["p99_ms"]
            assert drawn["tokens"][name] == columns["output_tokens"]
        assert drawn["rate"]["total"] == found["series"]["total"]["sent"]
        hosts = [url.removeprefix("http://") for url in (first.url, second.url)]
        assert {*drawn["cache"]} == {*hosts}  # each once, though two streams share one
        assert {*drawn["server_requests"]} == {f"{kind}: {host}" for kind in ("running", "waiting") for host in hosts}

        light = browser.run(COLOURS)
        of_streams = [light[f"rate {name}"] for name in STREAMS]
        assert len({*of_streams, light["rate total"]}) == 4
        assert all(light[f"{chart} {name}"] == light[f"rate {name}"] for chart in BY_STREAM for name in STREAMS)
        assert browser.run(SWATCHES)[1:] == of_streams

        browser.click(BOX.format("7"))
        await_lines(browser, "chat", "batch")
        browser.run("document.querySelector(arguments[0]).focus()", BOX.format("batch"))
        browser.run("document.activeElement.click()")
        await_lines(browser, "chat")
        browser.until("return document.querySelector(arguments[0]) === document.activeElement", BOX.format("batch"))

        browser.open(f"{page.url}/?tab=llm", dark=True)
        await_lines(browser, *STREAMS)
        dark = browser.run(COLOURS)
        assert dark["rate total"] != light["rate total"]
        assert [dark[f"rate {name}"] for name in STREAMS] == of_streams
        browser.click(BOX.format("chat"))
        await_lines(browser, "7", "batch")
        browser.click(BOX.format("chat"))
        await_lines(browser, *STREAMS)
        assert [browser.run(COLOURS)[f"rate {name}"] for name in STREAMS] == of_streams
        assert_the_table_is_what_the_route_says(browser)
        assert browser.complaints() == []

        until(report.exists)
        browser.open(report.as_uri())
        assert browser.run(SWATCHES)[1:] == of_streams
        browser.run("document.querySelector('#streams').scrollIntoView()")
        browser.until("return document.querySelector('#streams .plot .scatterlayer .trace')")
        charts = browser.run(
            "return [...document.querySelectorAll('#streams figure')].map((found) => found.dataset.chart)"
        )
        assert {"streams-cdf-ttft-0", "streams-cdf-tpot-0", "streams-cdf-e2e_latency-0", "streams-rate-0"} <= set(
            charts
        )
        assert all(name in browser.text("#streams table") for name in (*STREAMS, first.model))
        assert f"server {second.url}: most running" in browser.text("#throughput")
        assert browser.complaints() == []

    summary = json.loads(summary_file.read_text())
    assert list(summary["server_metrics"]) == ["hosts"]
    servers = summary["server_metrics"]["hosts"]
    assert list(servers) == [f"{first.url}/metrics", f"{second.url}/metrics"]
    tokens = {name: stream["total_output_tokens"] for name, stream in summary["streams"].items()}
    assert [found["generation_tokens"] for found in servers.values()] == [tokens["chat"] + tokens["7"], tokens["batch"]]
    assert [(stream["host"], stream["model"]) for stream in summary["streams"].values()] == [
        (first.url, first.model), (f"{first.url}/v1", first.model), (second.url, second.model),
    ]  # fmt: skip
