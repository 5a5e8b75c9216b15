"""Page: the report as one HTML file. Whatever was measured or told goes in as escaped text."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from fineserve_shapes import __version__
from fineserve_shapes.htmlreport import figures
from fineserve_shapes.htmlreport.cells import number
from fineserve_shapes.htmlreport.configuration import configuration, parted, side_by_side, slo_words
from fineserve_shapes.htmlreport.differing import LEGEND, Table, labels_of
from fineserve_shapes.htmlreport.source import RunData
from fineserve_shapes.measure.capacitytext import answer_line, step_line
from fineserve_shapes.measure.steady import throughput
from fineserve_shapes.measure.summary import rates
from fineserve_shapes.text import MAX_CHARS, shorten
from fineserve_shapes.webui.chartlibrary import plotly_js

logger = logging.getLogger(__name__)

_ASSETS = files("fineserve_shapes.htmlreport")
_SHARED = files("fineserve_shapes.webui")

_THROUGHPUT = {
    "duration": "duration, s", "completed": "completed", "failed": "failed", "short": "short", "retried": "retried",
}  # fmt: skip
_STEPS = {
    "rate_rps": "Requests/s", "verdict": "Fidelity", "decision": "Decision", "slo_share": "Met the SLO",
    "median_ttft_ms": "TTFT p50, ms", "p99_ttft_ms": "p99", "p99_ttft_bound_ms": "p99 at most",
    "median_tpot_ms": "TPOT p50, ms", "p99_tpot_ms": "p99", "p99_tpot_bound_ms": "p99 at most",
    "median_e2e_latency_ms": "E2E p50, ms", "p99_e2e_latency_ms": "p99", "p99_e2e_latency_bound_ms": "p99 at most",
    "goodput_rps": "Goodput/s", "output_throughput": "Output tokens/s", "requests": "Requests", "seconds": "Seconds",
}  # fmt: skip
_RATES = {
    "request_throughput": "requests/s", "input_throughput": "input tokens/s", "output_throughput": "output tokens/s",
    "concurrency": "mean in flight",
}  # fmt: skip


def write_report(runs: Sequence[RunData], out: Path, table: Table | None = None) -> None:
    """Write the report of some runs, side by side. Raises OSError where that cannot be.

    table: what sets them against each other, where it has been made already.
    """
    page = render(runs, table).encode()
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        scratch.write_bytes(page)
        scratch.replace(out)  # never half a report
    finally:
        scratch.unlink(missing_ok=True)


def render(runs: Sequence[RunData], table: Table | None = None) -> str:
    """The report as text."""
    labels = labels_of(runs)
    if len(runs) > 1 and table is None:
        table = Table.of(runs)
    differs, alike = parted(side_by_side(runs, configuration))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.3g} %"
    environment.filters["clipped"] = lambda value, limit=MAX_CHARS: shorten(str(value), limit)
    template = environment.from_string(_ASSETS.joinpath("report.html.jinja").read_text())
    data = {"runs": [figures.drawn(run) | {"label": label} for run, label in zip(runs, labels, strict=True)]}
    return template.render(
        version=__version__,
        labels=labels,
        table=table,
        legend=LEGEND,
        runs=[_tables(run) | {"label": label} for run, label in zip(runs, labels, strict=True)],
        requests=any(len(run.rows) for run in runs),
        mixed=any(run.tally.names.mixed for run in runs),
        differs=differs,
        configuration=alike,
        ledger=side_by_side(runs, lambda run: run.ledger),
        throughput=side_by_side(runs, _throughput),
        fidelity=side_by_side(runs, _fidelity),
        metrics=figures.METRICS,
        comparisons=[(label, run.burstiness) for label, run in zip(labels, runs, strict=True) if run.burstiness],
        capacities=[
            (
                label,
                answer_line(found),
                _step_columns(found["steps"]),
                found["steps"],
                [step_line(step, number) for number, step in enumerate(found["steps"], 1)],
            )
            for label, run in zip(labels, runs, strict=True)
            if (found := run.capacity) is not None
        ],
        drawn_streams=figures.MAX_STREAMS,
        style=_inline(_ASSETS.joinpath("report.css").read_text()),
        plotly=_inline(plotly_js().read_text()),
        charts=_inline(_SHARED.joinpath("charts.js").read_text()),
        script=_inline(_ASSETS.joinpath("report.js").read_text()),
        data=Markup(orjson.dumps(data).decode().replace("<", "\\u003c")),
    )


def _inline(text: str) -> Markup:
    """A file of ours, or of the chart library, to stand inside a script or style element."""
    if "</script" in text.lower() or "</style" in text.lower():
        raise ValueError("this text would end the element that it stands in")
    return Markup(text)


def _step_columns(steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Those of a search's table: its rates, and whatever any step has."""
    return {name: title for name, title in _STEPS.items() if any(step[name] is not None for step in steps)}


def _throughput(run: RunData) -> dict[str, Any]:
    told = run.summary
    if "duration" not in told:
        tally = run.tally
        told = {**told, **rates(tally.total, tally.warmup_s), "steady": throughput(tally.series, tally.window)}
    found = {title: told[name] for name, title in _THROUGHPUT.items() if name in told}
    found |= {f"{title}, drain included": told[name] for name, title in _RATES.items() if name in told}
    steady = told.get("steady")
    if isinstance(steady, dict) and steady.get("request_throughput") is not None:
        found["steady window, s"] = f"{number(steady.get('start_s'))} to {number(steady.get('end_s'))}"
        found |= {f"{title}, steady window": steady.get(name) for name, title in _RATES.items()}
    goodput = run.summary.get("goodput")
    if isinstance(goodput, dict):
        found |= {
            "goodput, requests/s of the steady window": goodput.get("rps"),
            "goodput, output tokens/s of the steady window": goodput.get("output_tps"),
            "goodput, share of planned": goodput.get("share"),
            "SLO": slo_words(run),
        }
    servers = figures.servers(run)
    for url, server in servers.items():
        who = "server" if len(servers) == 1 else f"server {url.removesuffix('/metrics')}"
        for name, title in (("max_running", "most running"), ("max_waiting", "most waiting"),
                            ("max_kv_cache_usage", "most KV cache in use"), ("preemptions", "preemptions"),
                            ("prompt_tokens", "prompt tokens"), ("cached_prompt_tokens", "of them cached"),
                            ("draft_acceptance_rate", "share of draft tokens accepted"),
                            ("mean_acceptance_length", "tokens a step, speculative")):  # fmt: skip
            if name in server:
                found[f"{who}: {title}"] = server[name]
    return found


def _fidelity(run: RunData) -> dict[str, Any]:
    told = run.fidelity
    reasons = told.get("reasons") or []
    found: dict[str, Any] = {"verdict": told.get("verdict"), "reasons": "; ".join(map(str, reasons)) or None}
    asked, sent = told.get("asked") or {}, told.get("delivered") or {}
    pairs = [("rate, requests/s", asked.get("rate_rps"), sent.get("rate_rps")),
             ("gap CV", asked.get("gap_cv"), sent.get("gap_cv"))]  # fmt: skip
    for width, value in (asked.get("dispersion") or {}).items():
        pairs.append((f"dispersion at {width} s", value, (sent.get("dispersion") or {}).get(width)))
    for name, left, right in pairs:
        found[f"{name}: asked / delivered"] = None if left is None else f"{number(left)} / {number(right)}"
    for name in ("due", "due_unsent", "due_unknown", "lag_p50_ms", "lag_p99_ms", "lag_max_ms", "lag_p99_of_ttft",
                 "held", "held_p50_ms", "held_p99_ms", "passed_on", "ended_twice"):  # fmt: skip
        found[name.replace("_", " ")] = told.get(name)
    reads = told.get("reads") or {}
    for name in ("delay_p50_ms", "delay_p99_ms", "shared_share", "first_unsure_p50_ms", "first_unsure_p99_ms",
                 "between", "between_p99_ms"):  # fmt: skip
        found[f"read {name.replace('_', ' ')}"] = reads.get(name)
    for worker, facts in list((told.get("workers") or {}).items())[:50]:
        if isinstance(facts, dict):
            uncertain = facts.get("uncertainty_s")
            found[f"worker {shorten(worker, 60)}"] = (
                f"clock within {number(None if uncertain is None else 1e3 * uncertain)} ms,"
                f" loop delay p99 {number(facts.get('loop_delay_p99_ms'))} ms,"
                f" read delay p99 {number((facts.get('reads') or {}).get('delay_p99_ms'))} ms"
            )
    return {name: value for name, value in found.items() if value is not None}


def _tables(run: RunData) -> dict[str, Any]:
    errors = run.tally.total.errors.most_common(20)
    return {
        "streams": figures.stream_rows(run),
        "latencies": figures.quantile_rows(run),
        "slowest": [
            ("by time to the end", figures.slowest(run, "e2e")),
            ("by time to first token", figures.slowest(run, "ttft")),
        ],
        "errors": [{"requests": count, "outcome": outcome, "error": text} for (outcome, text), count in errors],
    }
