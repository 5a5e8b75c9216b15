"""The curve of a search for a capacity, in a real browser: in the tab while it goes on, and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium, needs_chromium
from pages import open_page, until
from runs import cluster, summary_of
from test_capacity_runs import CAPACITY, SEARCHED, SERVER
from test_llm_tab import OVER, told

from fineserve_shapes.simulator.process import SimulatorProcess

pytestmark = needs_chromium

CURVES = ("curve-e2e_latency", "curve-goodput")
"""Answers are not streamed here: there is no TTFT and no TPOT, and no empty chart of them."""
CURVE = """const found = [...document.querySelectorAll("figure[data-chart^='curve-']")];
    if (!found.length || !found.every((figure) => figure.querySelector('.plot').data)) return null;
    return Object.fromEntries(found.map((figure) => [figure.dataset.chart.replace(/-[0-9]+$/, ''),
    Object.fromEntries(figure.querySelector('.plot').data.map((trace) => [trace.name, [[...trace.x], [...trace.y]]]))]))"""
WITHIN = """return [...document.querySelectorAll("figure[data-chart^='curve-']")]
    .every((figure) => {
        const outer = figure.getBoundingClientRect();
        return [...figure.querySelectorAll('.legend, .xtitle, .ytitle, .y2title')].every((part) => {
            const inner = part.getBoundingClientRect();
            return inner.left >= outer.left - 1 && inner.right <= outer.right + 1 && inner.bottom <= outer.bottom + 1;
        });
    })"""


def assert_the_curve_is_that_of_the_steps(drawn: dict[str, Any], capacity: dict[str, Any]) -> None:
    """A point for each step that was valid, in order of its rate."""
    steps = sorted(
        (step for step in capacity["steps"] if step["verdict"] == "valid"), key=lambda step: step["rate_rps"]
    )
    assert set(drawn) == set(CURVES)
    for chart, trace, name in (
        ("curve-e2e_latency", "p50", "median_e2e_latency_ms"), ("curve-e2e_latency", "p99", "p99_e2e_latency_ms"),
        ("curve-goodput", "goodput", "goodput_rps"), ("curve-goodput", "tokens", "output_throughput"),
    ):  # fmt: skip
        x, y = drawn[chart][trace]
        assert x == pytest.approx([step["rate_rps"] for step in steps])
        assert y == pytest.approx([step[name] for step in steps])
    if capacity["rate_rps"] is not None:
        assert drawn["curve-goodput"]["capacity"][0] == pytest.approx([capacity["rate_rps"]] * 2)


def curve_of(browser: Browser) -> dict[str, Any]:
    found: dict[str, Any] = browser.until(CURVE)
    return found


@pytest.mark.timeout(240)
def test_the_curve_grows_while_the_search_goes_on_and_stands_in_the_report(tmp_path: Path):
    report, out = tmp_path / "capacity.html", tmp_path / "capacity.json"
    with SimulatorProcess(**SERVER) as server, cluster(tmp_path) as locust, chromium(tmp_path) as browser:
        page = open_page(
            locust, *SEARCHED, "--max-steps", 4, "--host", server.url, "--report", report, "--output-file", out,
            file=CAPACITY,
        )  # fmt: skip
        assert page.swarm()["success"] is True
        until(lambda: json.loads(page.get("/stats/requests"))["state"] != "ready")
        browser.open(f"{page.url}/?tab=llm")
        curve = browser.until(CURVE, timeout_s=90)
        about = told(browser)["about"]
        assert 1 <= len(curve["curve-goodput"]["tokens"][0]) <= len(about["capacity"]["steps"])
        assert not about["capacity"]["finished"]
        assert "at scale" in browser.text("#fineserve .head p")
        browser.screenshot(tmp_path / "going-on.png")

        browser.until(f"return (() => {{ {OVER} }})() && document.body.innerText.includes('step 4')", timeout_s=120)
        until(report.exists)
        capacity = summary_of(out)["capacity"]
        valid = [step for step in capacity["steps"] if step["verdict"] == "valid"]
        assert len(valid) >= 2, [step["reasons"] for step in capacity["steps"]]
        until(lambda: len(curve_of(browser)["curve-goodput"]["tokens"][0]) == len(valid))
        assert_the_curve_is_that_of_the_steps(curve_of(browser), capacity)
        assert browser.run(WITHIN)
        browser.screenshot(tmp_path / "over.png")

        browser.open(report.as_uri())
        browser.run("document.querySelector('#capacity').scrollIntoView()")
        assert_the_curve_is_that_of_the_steps(curve_of(browser), capacity)
        assert browser.run(WITHIN)
        assert "capacity, where" in browser.text("#capacity")
        browser.screenshot(tmp_path / "report.png")
        assert browser.complaints() == []
