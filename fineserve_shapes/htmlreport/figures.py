"""Figures: what the report draws and lists, as plain values of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.htmlreport.source import RunData
from fineserve_shapes.measure import records
from fineserve_shapes.measure.certified import QUANTILES
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.streamrows import stream_row
from fineserve_shapes.measure.totals import LATENCIES
from fineserve_shapes.outcome import OUTCOMES

SAMPLE = 2_000
BINS = 30
LEAST_PER_BIN = 50
CDF_POINTS = 300
SLOWEST = 20
MAX_STREAMS = 16
"""So many streams of a mix are drawn, the first ones; the table has all."""

METRICS = {
    "ttft": "TTFT",
    "visible_ttft": "TTFT visible",
    "ttft_from_due": "TTFT from due",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2e_latency": "E2E",
    "lag": "Lag",
}


def drawn(run: RunData) -> dict[str, Any]:
    """All that is drawn of a run."""
    series = run.tally.series.as_dict(streams=run.tally.names.names)
    begin_s, width_s = np.array(series["start_s"], dtype=float), np.array(series["width_s"], dtype=float)

    def in_flight(rows: records.Records) -> list[float]:
        return _rounded(mean_in_flight(rows, begin_s, begin_s + width_s), 3)

    series["total"]["in_flight"] = in_flight(run.rows)
    rows = run.counted
    at_once = in_flight_at(run.rows, rows["sent_s"])
    prompt, ttft_ms = records.input_tokens(rows), 1e3 * records.ttft_s(rows)
    total = run.tally.total
    names = run.tally.names
    streams = []
    for number, (name, part) in enumerate(list(run.tally.streams.items())[:MAX_STREAMS] if names.mixed else []):
        mine = run.rows[run.rows["stream"] == number]
        streams.append(
            {
                "name": name,
                "columns": series["streams"][name] | {"in_flight": in_flight(mine)},
                "cdf": {metric: cdf(part.totals.latencies[metric]) for metric in OF_STREAMS},
            }
        )
    return {
        "axis": {"start_s": series["start_s"], "width_s": series["width_s"]},
        "columns": series["total"],
        "streams": streams,
        "servers": [
            {"url": url, "series": figures["series"]} for url, figures in servers(run).items() if figures.get("series")
        ],
        "limits": run.fidelity.get("limits"),
        "capacity": run.capacity,
        "cdf": {name: cdf(total.lag if name == "lag" else total.latencies[name]) for name in METRICS},
        "against": {
            "ttft_prompt": against(prompt, ttft_ms),
            "ttft_concurrency": against(at_once, ttft_ms),
            "tpot_concurrency": against(at_once, 1e3 * records.tpot_s(rows)),
            "e2e_output": against(np.maximum(rows["output_tokens"], 0).astype(float), 1e3 * records.e2e_s(rows)),
        },
    }


OF_STREAMS = ("ttft", "tpot", "e2e_latency")
"""The latencies whose distributions are drawn for each stream of a mix."""


def servers(run: RunData) -> dict[str, Mapping[str, Any]]:
    """What each server said of itself, by the URL of its metrics."""
    told = run.summary.get("server_metrics")
    if not isinstance(told, dict):
        return {}
    hosts = told.get("hosts")
    found = hosts if isinstance(hosts, dict) else {str(told.get("url")): told}
    return {url: figures for url, figures in found.items() if isinstance(figures, dict)}


def stream_rows(run: RunData) -> list[dict[str, Any]]:
    """The table of a mix: all together, then each stream."""
    names = run.tally.names
    if not names.mixed:
        return []
    table = run.tally.table()
    told = run.summary.get("streams")
    told = told if isinstance(told, dict) else {}

    def share(figures: Any) -> float | None:
        goodput = figures.get("goodput") if isinstance(figures, Mapping) else None
        return goodput.get("share") if isinstance(goodput, dict) else None

    found = [
        {"name": "All", **stream_row(_known(run, None, table["total"]), run.ledger, run.fidelity, share(run.summary))}
    ]
    for name in names.names:
        of_stream = told.get(name) if isinstance(told.get(name), dict) else {}
        row = stream_row(
            _known(run, name, table["streams"][name]),
            run.ledgers[name],
            run.fidelities[name],
            share(of_stream),
            (of_stream or {}).get("model"),
        )
        found.append({"name": name, **row})
    return found


def _known(run: RunData, stream: str | None, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of requests, or where there are none those that the summary tells."""
    if len(run.rows):
        return entry
    return {**entry, **{name: told for name in METRICS if (told := run.told_latency(stream, name)) is not None}}


def cdf(histogram: Histogram) -> dict[str, list[float]]:
    """Milliseconds `x` and the share `y` of values up to there, in at most some hundred points; dense in the tail."""
    if not histogram.count:
        return {"x": [], "y": []}
    values_s, reached = histogram.cumulative()
    share = reached / histogram.count
    levels = np.concatenate(
        [np.linspace(0, 0.95, CDF_POINTS // 2), 1 - np.geomspace(0.05, 1e-6, CDF_POINTS // 2), [1.0]]
    )
    picked = np.unique(np.minimum(np.searchsorted(share, levels), len(share) - 1))
    return {"x": _rounded(1e3 * values_s[picked]), "y": _rounded(share[picked], 6)}


def against(x: FloatArray, y: FloatArray) -> dict[str, Any]:
    """y over x: quantiles within bins of x that hold about equally many, and a sample of the points."""
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    if not len(x):
        return {"bins": {"x": [], "count": [], "p50": [], "p90": [], "p99": []}, "sample": {"x": [], "y": []}}
    parts = min(max(len(x) // LEAST_PER_BIN, 1), BINS)
    edges = np.unique(np.quantile(x, np.linspace(0, 1, parts + 1), method="nearest"))
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
    bins: dict[str, list[float]] = {"x": [], "count": [], "p50": [], "p90": [], "p99": []}
    for number in np.unique(place).tolist():
        mine = place == number
        found = np.quantile(y[mine], [0.5, 0.9, 0.99], method="inverted_cdf")
        values = (float(np.median(x[mine])), int(mine.sum()), *found.tolist())
        for name, value in zip(bins, values, strict=True):
            bins[name].append(round(value, 4))
    picked = np.random.default_rng(0).permutation(len(x))[:SAMPLE]
    return {"bins": bins, "sample": {"x": _rounded(x[picked]), "y": _rounded(y[picked])}}


def in_flight_at(rows: records.Records, at_s: FloatArray) -> FloatArray:
    """How many requests were in flight at these times, one that is sent just then included, shape (n,)."""
    sent, ended = np.sort(rows["sent_s"]), np.sort(rows["end_s"])
    return (np.searchsorted(sent, at_s, side="right") - np.searchsorted(ended, at_s, side="right")).astype(np.float64)


def mean_in_flight(rows: records.Records, begin_s: FloatArray, end_s: FloatArray) -> FloatArray:
    """The mean number in flight between times, shape (n,)."""
    return np.asarray((_until(rows, end_s) - _until(rows, begin_s)) / (end_s - begin_s))


def _until(rows: records.Records, at_s: FloatArray) -> FloatArray:
    """Seconds spent in flight up to times, all requests together."""
    total = np.zeros(len(at_s))
    for name, sign in (("sent_s", 1.0), ("end_s", -1.0)):
        moments = np.sort(rows[name])
        sums = np.concatenate([[0.0], np.cumsum(moments)])
        count = np.searchsorted(moments, at_s)
        total += sign * (count * at_s - sums[count])
    return total


def quantile_rows(run: RunData) -> list[dict[str, Any]]:
    """The table of latencies, and what their tails are at most: in total, then by stream where there are several."""
    table, bounds = run.tally.table(), run.tally.bounds()
    groups = [("all", None, table["total"], bounds["total"])]
    if len(table["streams"]) > 1:
        groups += [(name, name, entry, bounds["streams"].get(name, {})) for name, entry in table["streams"].items()]
    found = []
    for title, stream, entry, at_most in groups:
        for name, metric in METRICS.items():
            told = run.told_latency(stream, name)
            figures = entry[name] if entry[name]["count"] else told
            visible = entry["ttft"] if entry["ttft"]["count"] else run.told_latency(stream, "ttft")
            if figures is None or (name == "visible_ttft" and figures == visible):
                continue
            bounds = at_most.get(name, {}) if len(run.rows) else _told_bounds(run, stream, name)
            found.append({"stream": title, "metric": metric, **figures, **{f"{q}_bound": bounds[q] for q in bounds}})
    return found


def _told_bounds(run: RunData, stream: str | None, name: str) -> dict[str, Any]:
    """What the summary says that quantiles are at most."""
    told: Any = run.summary
    if stream is not None:
        told = (told.get("streams") or {}).get(stream) or {}
    return {f"{quantile}_ms": told.get(f"{quantile}_{name}_bound_ms") for quantile in QUANTILES}


def slowest(run: RunData, by: str) -> list[dict[str, Any]]:
    """The requests that took longest, by "e2e" or "ttft", whatever their outcome."""
    values_s = records.e2e_s(run.rows) if by == "e2e" else records.ttft_s(run.rows)
    known = np.flatnonzero(~np.isnan(values_s))
    order: IntArray = known[np.argsort(-values_s[known], kind="stable")][:SLOWEST]
    rows = run.rows[order]
    tpot_s, lag_s = records.tpot_s(rows), records.lag_s(rows)
    return [
        {
            "id": run.ids[place],
            "stream": run.tally.names.of(int(row["stream"])),
            "outcome": OUTCOMES[row["outcome"]],
            "due_s": float(row["due_s"]),
            "lag_ms": 1e3 * float(lag_s[number]),
            "held_ms": 1e3 * float(row["held_s"]),
            "ttft_ms": _ms(row["first_token_s"] - row["sent_s"]),
            "tpot_ms": _ms(tpot_s[number]),
            "e2e_ms": 1e3 * float(row["end_s"] - row["sent_s"]),
            "input_tokens": int(row["asked_input"]),
            "output_tokens": int(row["output_tokens"]) if row["output_tokens"] >= 0 else None,
            "worker": run.workers[place],
            "error": run.errors[place],
        }
        for number, (place, row) in enumerate(zip(order.tolist(), rows, strict=True))
    ]


def _ms(value_s: float) -> float | None:
    return None if np.isnan(value_s) else 1e3 * float(value_s)


def _rounded(values: FloatArray, digits: int = 4) -> list[float]:
    rounded: list[float] = np.round(values, digits).tolist()
    return rounded


assert set(METRICS) == {*LATENCIES, "lag"}
