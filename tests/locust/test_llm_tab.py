"""The LLM tab in a real browser, before a real Locust that drives the simulator."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, chromium, needs_chromium
from pages import Page, open_page, until
from runs import cluster, write_trace
from thorough import in_one_process_too

from fineserve_shapes.simulator.process import SimulatorProcess

pytestmark = needs_chromium

CHARTS = {"rate", "in_flight", "ttft", "tpot", "tokens", "outcomes", "lag", "cache"}
LOGIN = Path(__file__).with_name("with_login.py")

OVER = "return document.querySelector('#fineserve h2')?.textContent.includes(': over')"
TABLE = """return [...document.querySelectorAll('#fineserve .latencies tbody tr')].map((row) => [row.dataset.stream,
    row.dataset.metric, Object.fromEntries([...row.querySelectorAll('td[data-column]')].map((cell) =>
    [cell.dataset.column, cell.textContent]))])"""
BOUNDS = """return [...document.querySelectorAll('#fineserve .latencies tr[data-metric="ttft"] td[data-bound]')].map(
    (cell) => cell.textContent)"""
POINTS = """return Object.fromEntries([...document.querySelectorAll('#fineserve figure')].map((figure) =>
    [figure.dataset.chart, Object.fromEntries(figure.querySelector('.plot').data.map((trace) =>
    [trace.name, [...trace.y]]))]))"""
LINES = "return document.querySelectorAll('#fineserve .plot .scatterlayer .trace').length"
DRAWN = f"return document.querySelectorAll('#fineserve figure').length >= 7 && ({LINES.removeprefix('return ')}) > 12"


def bursts(seconds: float) -> list[float]:
    return np.cumsum(np.random.default_rng(3).exponential(1 / 25, int(25 * seconds))).tolist()


def start(page: Page, host: str, trace: Path) -> None:
    answer = page.swarm(host=host, request_trace_csv=trace)
    assert answer["success"] is True, answer
    # Locust answers from a cache for two seconds; a page that hears "ready" shows the form, and asks no more
    until(lambda: json.loads(page.get("/stats/requests"))["state"] != "ready")


def told(browser: Browser) -> dict[str, Any]:
    """What the JSON route says now, asked by the page itself: its login is the browser's."""
    return browser.run(
        "const request = new XMLHttpRequest();"
        "request.open('GET', new URL('fineserve/llm.json', location.href.split('?')[0]), false);"
        "request.send();"
        "return JSON.parse(request.responseText)"
    )


def shown(value: float | None) -> str:
    """A figure as the tab writes it: four significant digits."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{int(np.floor(value + 0.5)):,}"
    return f"{float(f'{value:.4g}'):,.10g}"


def assert_the_tab_is_what_the_route_says(browser: Browser) -> dict[str, Any]:
    browser.until(OVER, timeout_s=40)
    browser.until(DRAWN)
    found = told(browser)
    rows = browser.run(TABLE)
    assert len(rows) == 6
    for stream, metric, cells in rows:
        assert stream == "total"
        figures = found["table"]["total"][metric]
        assert cells["count"] == f"{figures['count']:,}"
        for name in ("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"):
            assert float(cells[name].replace(",", "")) == pytest.approx(figures[name], rel=6e-4), (metric, name)
    most = found["bounds"]["total"]
    assert browser.run(BOUNDS) == [
        "–" if bound is None else shown(bound)
        for bound in (most["ttft"]["p90_ms"], most["ttft"]["p99_ms"], most["ttft"]["p99.9_ms"])
    ]
    browser.until(f"return JSON.stringify(({POINTS.removeprefix('return ')}).rate?.sent) === arguments[0]",
                  json.dumps(found["series"]["total"]["sent"], separators=(",", ":")))  # fmt: skip
    running = found["servers"][0]["series"]["running"]  # whose last sample comes after the end
    until(lambda: browser.run(POINTS)["in_flight"].get("running at the server") == running)
    drawn, columns = browser.run(POINTS), found["series"]["total"]
    assert set(drawn) == CHARTS
    assert drawn["ttft"]["p99"] == columns["ttft"]["p99_ms"]
    assert drawn["tpot"]["p50"] == columns["tpot"]["p50_ms"]
    assert drawn["lag"]["p90"] == columns["lag"]["p90_ms"]
    assert drawn["tokens"]["output"] == columns["output_tokens"]
    assert drawn["in_flight"]["in flight"] == columns["in_flight"]
    assert drawn["outcomes"]["ok"] == columns["ok"]
    assert sum(drawn["rate"]["asked"]) == found["ledger"]["planned"]
    return found


@in_one_process_too
def test_the_tab_through_run_reload_theme_reset_and_a_second_run(tmp_path: Path, workers: int):
    trace = write_trace(tmp_path / "trace.csv", bursts(8), output_tokens=20)
    short = write_trace(tmp_path / "short.csv", bursts(4), output_tokens=20)
    with (
        SimulatorProcess(ttft_ms=40, itl_ms=10) as simulator,
        cluster(tmp_path) as locust,
        chromium(tmp_path) as browser,
    ):
        page = open_page(locust, "--host", simulator.url, "--slo", "ttft=20s", workers=workers)
        browser.open(page.url)
        assert browser.run("return document.querySelector('#fineserve')") is None  # before a run there are no tabs
        start(page, simulator.url, trace)
        browser.open(f"{page.url}/?tab=llm")
        browser.until("return document.querySelector('#fineserve h2')?.textContent.includes(': running')")
        browser.until(f"return {LINES.removeprefix('return ')} > 8")  # curves while it goes on
        found = assert_the_tab_is_what_the_route_says(browser)
        assert found["ledger"]["ok"] == found["ledger"]["planned"] == 200
        tiles = browser.text("#fineserve .tiles")
        assert "100 %" in tiles  # goodput
        assert ("✓ valid" in tiles) or ("✗ invalid" in tiles)
        first = found["run"]

        browser.open(f"{page.url}/?tab=llm", dark=True)  # a reload, in the dark
        assert assert_the_tab_is_what_the_route_says(browser)["run"] == first
        colours = (
            "return [getComputedStyle(document.body).backgroundColor,"
            " document.querySelector('#fineserve .plot').layout.font.color]"
        )
        dark = browser.run(colours)
        browser.run(  # Locust's own switch between its themes
            "[...document.querySelectorAll('header button')].find((found) =>"
            " found.offsetParent && !found.innerText && found.querySelector('svg')).click()"
        )
        browser.until("return getComputedStyle(document.body).backgroundColor !== arguments[0]", dark[0])
        browser.until("return document.querySelector('#fineserve .plot').layout.font.color !== arguments[0]", dark[1])

        page.get("/")
        page.post_text("/stats/reset")  # Locust's statistics start anew; a run's account of itself does not
        assert assert_the_tab_is_what_the_route_says(browser)["ledger"]["ok"] == 200

        browser.run("document.querySelectorAll('.MuiTab-root')[0].click()")
        browser.until("return document.querySelector('#fineserve').hidden")
        browser.run("[...document.querySelectorAll('.MuiTab-root')].at(-1).click()")
        browser.until("return !document.querySelector('#fineserve').hidden")
        start(page, simulator.url, short)  # the page stays open meanwhile
        browser.until("return !document.querySelector('#fineserve h2').textContent.includes(arguments[0])", first)
        second = assert_the_tab_is_what_the_route_says(browser)
        assert second["run"] != first
        assert second["ledger"]["ok"] == 100
        assert browser.complaints() == []


def test_zoom_windows_hover_and_the_keyboard(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", bursts(4), output_tokens=5)
    with (
        SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator,
        cluster(tmp_path) as locust,
        chromium(tmp_path) as browser,
    ):
        page = open_page(locust, "--host", simulator.url)
        start(page, simulator.url, trace)
        browser.open(f"{page.url}/?tab=llm")
        browser.until(OVER)
        browser.until(DRAWN)
        ranges = (
            "return [...document.querySelectorAll('#fineserve .plot')].map((plot) => plot.layout.xaxis.range.join())"
        )
        browser.run("Plotly.relayout(document.querySelector('#fineserve .plot'),"
                    "{'xaxis.range[0]': 1, 'xaxis.range[1]': 2})")  # fmt: skip
        browser.until(f"return ({ranges.removeprefix('return ')}).every((range) => range === '1,2')")
        browser.run("Plotly.relayout(document.querySelector('#fineserve .plot'), {'xaxis.autorange': true})")
        browser.until(f"return ({ranges.removeprefix('return ')}).every((range) => range.startsWith('0,'))")
        browser.point_at("#fineserve .plot .nsewdrag")
        hovered = browser.until("return document.querySelector('#fineserve .hoverlayer').textContent")
        assert "asked" in hovered
        assert "sent" in hovered
        reached = browser.run(
            "return [...document.querySelectorAll('#fineserve :is(select, [tabindex])')].filter((found) =>"
            " !found.hidden && found.tabIndex >= 0).map((found) => found.getAttribute('aria-label'))"
        )
        assert {"Time shown in the charts", "Latencies"} <= set(reached)
        roles = browser.run(
            "return [...document.querySelectorAll('#fineserve figure')].map((found) => found.ariaLabel)"
        )
        assert "Time to first token, ms" in roles
        buttons = browser.run("return [...document.querySelector('#fineserve .plot').querySelectorAll('.modebar-btn')]"
                              ".map((button) => [button.dataset.title, button.tabIndex])")  # fmt: skip
        assert {title for title, _ in buttons} == {
            "Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale",
        }  # fmt: skip
        assert {place for _, place in buttons} == {-1}

        browser.open(f"{page.url}/?tab=llm", width=400, height=900)  # a phone
        browser.until(DRAWN)
        assert browser.run("return document.documentElement.scrollWidth") == 400
        assert browser.run("return [...document.querySelectorAll('#fineserve .plot')].every((plot) =>"
                           " plot.getBoundingClientRect().right <= 400)")  # fmt: skip


def test_the_tab_behind_a_login_and_a_base_path(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", bursts(3), output_tokens=5)
    with (
        SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator,
        cluster(tmp_path) as locust,
        chromium(tmp_path) as browser,
    ):
        page = open_page(
            locust, "--host", simulator.url, "--web-login", "--web-base-path", "/load", "--request-trace-csv", trace,
            file=LOGIN, base="/load/login",
        )  # fmt: skip
        for route in ("llm.json", "metrics", "llm.js", "llm.css", "charts.js", "streams.js", "plotly.min.js"):
            with urllib.request.urlopen(f"{page.url}/load/fineserve/{route}", timeout=30) as response:
                assert "/load/login" in response.url, route  # sent to the login instead
        browser.open(f"{page.url}/load/login")
        browser.until("return document.querySelector('input[type=password]')").send_keys("locust")
        browser.run("return document.querySelector('input[name=username]')").send_keys("someone")
        browser.click("button[type=submit]")
        browser.until("return location.pathname === '/load/' && document.querySelector('form')")
        browser.run(
            "fetch('./swarm', {method: 'POST',"
            " body: new URLSearchParams({user_count: 1, spawn_rate: 1, host: arguments[0]})})",
            simulator.url,
        )
        browser.until("return fetch('./stats/requests').then((r) => r.json()).then((told) => told.state !== 'ready')")
        browser.open(f"{page.url}/load/?tab=llm")
        found = assert_the_tab_is_what_the_route_says(browser)
        assert found["ledger"]["ok"] == 75
        browser.driver.delete_all_cookies()
        browser.until("return document.querySelector('#fineserve .notice').textContent.includes('signed in')")


MARKUP = "<img src=x onerror=window.caught=1><script>window.caught=2</script>"
HOSTILE = MARKUP + "\"'=cmd()"


class HostileServer(BaseHTTPRequestHandler):
    """A model, and errors of a megabyte, that would like to be markup."""

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": HOSTILE}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(500, {"error": {"message": HOSTILE + "\n" + "A" * 1_000_000}})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who reads only the beginning of an error hangs up
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def test_hostile_text_is_only_text(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", bursts(2), output_tokens=5)
    report = tmp_path / "report.html"
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), HostileServer) as server,
        cluster(tmp_path) as locust,
        chromium(tmp_path) as browser,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            host = f"http://127.0.0.1:{server.server_port}"
            page = open_page(locust, "--host", host, "--report", report, "--skip-preflight", "--model", MARKUP)
            start(page, host, trace)
            browser.open(f"{page.url}/?tab=llm")
            browser.until(OVER)
            browser.until(DRAWN.replace("> 12", "> 3"))
            until(report.exists)
            for url in ("", report.as_uri()):
                if url:
                    browser.open(url)
                    browser.run(
                        "document.querySelector('#time-charts').scrollIntoView()"
                    )  # drawn when they come into view
                    browser.until("return document.querySelector('.plot .scatterlayer .trace')")
                text = browser.text("body")
                assert text.count(MARKUP) >= 2  # the model, and the error
                assert len(text) < 100_000
                assert browser.run("return window.caught ?? null") is None
                assert browser.run("return document.querySelectorAll('img[src=x], iframe').length") == 0
            assert browser.run("return performance.getEntriesByType('resource').length") == 0  # nothing from elsewhere
        finally:
            server.shutdown()
            thread.join(5)


def test_what_is_no_file_of_ours_is_not_served(tmp_path: Path):
    with cluster(tmp_path) as locust:
        page = open_page(locust)
        for path in ("feed.py", "..%2foptions.py", "%2e%2e/options.py", "plotly.min.js.map"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                page.get(f"/fineserve/{path}")
            with refused.value as answer:
                assert answer.code == 404
        assert json.loads(page.get("/fineserve/llm.json")) == {"run": None, "state": "none"}
        assert json.loads(page.get("/fineserve/llm.json?version=x&server_s=y&run=%3Cb%3E&stream=9"))["run"] is None


def test_prometheus_finds_the_figures(tmp_path: Path):
    trace = write_trace(tmp_path / "trace.csv", bursts(2), output_tokens=5)
    with SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator, cluster(tmp_path) as locust:
        page = open_page(locust, "--host", simulator.url, "--prometheus-port", "0")
        log = locust.await_output(locust.processes[0], "Prometheus finds the figures at http")
        own = log.split("Prometheus finds the figures at http")[1].split()[0]
        start(page, simulator.url, trace)
        until(lambda: 'fineserve_requests_total{outcome="ok",stream="replay"} 50.0' in page.get("/fineserve/metrics"))
        with urllib.request.urlopen(f"http{own}", timeout=30) as response:
            text = response.read().decode()
        assert 'fineserve_ttft_seconds_count{stream="replay"} 50.0' in text
        assert 'fineserve_ttft_seconds_bucket{le="+Inf",stream="replay"} 50.0' in text
