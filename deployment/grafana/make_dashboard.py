"""Writes the dashboard: `python deployment/grafana/make_dashboard.py` makes the same bytes again (a test compares them)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_name("fineserve.json")
WIDTH = 24  # of Grafana's grid
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart, or with `stat` a number. queries: PromQL and legend. unit: Grafana's name for it."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str = ""
    stat: bool = False
    names: tuple[tuple[str, str, str], ...] = ()
    """For a number: value, what it is called, colour."""


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}{RATE}))"


def _quantiles(histogram: str, by: str, *quantiles: float, where: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"histogram_quantile({q}, {_rate(f'{histogram}_bucket', f'le, {by}', where)})", f"p{100 * q:g} {{{{{by}}}}}")
        for q in quantiles
    )


STREAM = '{stream=~"$stream"}'
FAILED = '{outcome=~"http_error|stream_error|timeout|connect_error"}'
ROWS: dict[str, tuple[Panel, ...]] = {
    "The run": (
        Panel("Verdict so far", "none", (("fineserve_fidelity_valid", ""),),
              "Whether the load that left is the load that was asked for, and the times are the server's.", stat=True,
              names=(("0", "invalid", "red"), ("1", "valid", "green"))),
        Panel("Planned so far", "short", (("sum(fineserve_ledger_requests)", ""),), stat=True),
        Panel("Failed", "short", ((f"sum(fineserve_ledger_requests{FAILED})", ""),), stat=True),
        Panel("Run", "none", (("fineserve_run_info", "{{run}}"),), stat=True),
    ),
    "Load": (
        Panel("Requests that ended", "reqps", ((_rate("fineserve_requests_total", "outcome", STREAM), "{{outcome}}"),)),
        Panel("Requests in flight", "short", ((f"sum by (stream) (fineserve_requests_in_flight{STREAM})", "{{stream}}"),)),
        Panel("Tokens", "short",
              ((_rate("fineserve_output_tokens_total", "stream", STREAM), "output {{stream}}"),
               (_rate("fineserve_input_tokens_total", "stream", STREAM), "input {{stream}}")),
              "Per second, of answers that ended ok."),
        Panel("Good requests", "reqps", ((_rate("fineserve_good_requests_total", "stream", STREAM), "{{stream}}"),),
              "That met every SLO; empty without --slo."),
    ),
    "Latency": (
        Panel("TTFT", "s", _quantiles("fineserve_ttft_seconds", "stream", 0.5, 0.99, where=STREAM)),
        Panel("TTFT from due", "s", _quantiles("fineserve_ttft_from_due_seconds", "stream", 0.5, 0.99, where=STREAM),
              "What a user waits who knows nothing of our lateness."),
        Panel("TPOT", "s", _quantiles("fineserve_tpot_seconds", "stream", 0.5, 0.99, where=STREAM)),
        Panel("ITL", "s", _quantiles("fineserve_itl_seconds", "stream", 0.5, 0.99, where=STREAM)),
        Panel("E2E", "s", _quantiles("fineserve_e2e_latency_seconds", "stream", 0.5, 0.99, where=STREAM)),
        Panel("Marks", "reqps",
              ((_rate("fineserve_short_requests_total", "stream", STREAM), "short {{stream}}"),
               (_rate("fineserve_no_finish_reason_requests_total", "stream", STREAM), "no finish_reason {{stream}}"),
               (_rate("fineserve_retried_requests_total", "stream", STREAM), "retried {{stream}}"))),
    ),
    "Is it the client?": (
        Panel("Lag", "s", _quantiles("fineserve_lag_seconds", "stream", 0.5, 0.99, where=STREAM),
              "By how much requests left later than due."),
        Panel("Read delay", "s", _quantiles("fineserve_read_delay_seconds", "worker", 0.99),
              "By how much tokens were read after they came."),
        Panel("What TTFT can be off", "s", _quantiles("fineserve_first_token_error_seconds", "worker", 0.5, 0.99)),
        Panel("Reads that held several tokens", "short", ((_rate("fineserve_shared_reads_total", "worker"), "{{worker}}"),),
              "Per second."),
    ),
    "The server's own (vLLM)": (
        Panel("Requests", "short",
              (("sum by (model_name) (vllm:num_requests_running)", "running {{model_name}}"),
               ("sum by (model_name) (vllm:num_requests_waiting)", "waiting {{model_name}}"))),
        Panel("KV cache", "percentunit", (("max by (model_name) (vllm:kv_cache_usage_perc)", "{{model_name}}"),)),
        Panel("Prefix cache hits", "percentunit",
              ((" / ".join(_rate(f"vllm:prefix_cache_{what}_total", "model_name") for what in ("hits", "queries")),
                "{{model_name}}"),)),
        Panel("TTFT by the server", "s", _quantiles("vllm:time_to_first_token_seconds", "model_name", 0.5, 0.99)),
        Panel("Tokens by the server", "short",
              ((_rate("vllm:generation_tokens_total", "model_name"), "output {{model_name}}"),
               (_rate("vllm:prompt_tokens_total", "model_name"), "input {{model_name}}"))),
        Panel("Preemptions", "short", ((_rate("vllm:num_preemptions_total", "model_name"), "{{model_name}}"),),
              "Per second."),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    return {
        "uid": "fineserve",
        "title": "fineserve_shapes",
        "description": "LLM traffic: what was asked for, what left, what came back, and whether it was the client.",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "tags": ["locust", "llm"],
        "templating": {
            "list": [
                {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "stream", "label": "Stream", "type": "query", "datasource": SOURCE, "refresh": 2,
                    "query": {"query": "label_values(fineserve_requests_total, stream)", "refId": "stream"},
                    "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": list(_panels()),
    }  # fmt: skip


def _panels() -> Iterator[dict[str, Any]]:
    number = top = 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": _place(0, top, WIDTH, 1),
        }
        top += 1
        stats = all(panel.stat for panel in panels)
        columns, height = (len(panels), 4) if stats else (2 if len(panels) == 4 else 3, HEIGHT)
        for place, panel in enumerate(panels):
            number += 1
            width = WIDTH // columns
            left, down = place % columns * width, place // columns * height
            yield _panel(panel, number, _place(left, top + down, width, height))
        top += -(-len(panels) // columns) * height


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    named = [
        {"type": "value", "options": {value: {"text": text, "color": colour}}} for value, text, colour in panel.names
    ]
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "mappings": named}, "overrides": []},
        "options": {"textMode": "name" if panel.title == "Run" else "auto"}
        if panel.stat
        else {"tooltip": {"mode": "multi"}},
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
