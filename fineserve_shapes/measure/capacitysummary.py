"""Capacity summary: the steps of a search and its answer, as plain values for the summary, the tab and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.measure.capacity import Capacity
from fineserve_shapes.measure.certified import CONFIDENCE
from fineserve_shapes.measure.decision import Decision, Verdict
from fineserve_shapes.measure.knee import knee
from fineserve_shapes.measure.quantiles import student
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.tally import Tally

BATCHES = 16
_LATENCIES = tuple(
    name for latency in ("ttft", "tpot", "e2e_latency")
    for name in (f"median_{latency}_ms", f"p99_{latency}_ms", f"p99_{latency}_bound_ms")
)  # fmt: skip


def step_figures(
    summary: Mapping[str, Any],
    tally: Tally,
    scale: float,
    rate_rps: float | None,
    decision: Decision | None,
    of_streams: Mapping[str, Decision] | None = None,
) -> dict[str, Any]:
    """One step, from the summary of its run.

    `run`, `scale`, `rate_rps` (as planned), `requests` (sent, the settling's included), `seconds`; `verdict` and `reasons`
    (of fidelity); `decision`, `why`, `slo_share` with `slo_share_low` and `slo_share_high` (None where nothing was
    decided: the step was interrupted, or there is no SLO); TTFT, TPOT and E2E; `goodput_rps` and `output_throughput` of the
    steady window, with `_low` and `_high`: what the share's interval makes of the rate, and 99 % by batch means.
    Where each stream of a mix has an SLO of its own: `stream`, the one that decided (None: requests in flight grow), whose
    share that is, and `streams`, by name: `decision`, `why`, `slo_share`, `slo_share_low`, `slo_share_high`.
    """
    fidelity, ledger, goodput = summary["fidelity"], summary["ledger"], summary["goodput"]
    decided = decision is not None and decision.share is not None
    good_low, good_high = _goodput_bounds(summary, decision, of_streams)
    tokens_low, tokens_high = _bounds(_tokens_by_second(tally))
    return {
        "run": summary["run"],
        "scale": scale,
        "rate_rps": rate_rps,
        "requests": ledger["planned"] - ledger["unsent"],
        "seconds": summary["duration"],
        "verdict": fidelity["verdict"],
        "reasons": list(fidelity["reasons"]),
        "decision": None if decision is None else str(decision.verdict),
        "why": None if decision is None else decision.why,
        "slo_share": decision.share if decision is not None else None,
        "slo_share_low": decision.low if decision is not None and decided else None,
        "slo_share_high": decision.high if decision is not None and decided else None,
        **{name: summary.get(name) for name in _LATENCIES},
        "goodput_rps": None if goodput is None else goodput["rps"],
        "goodput_low_rps": good_low,
        "goodput_high_rps": good_high,
        "output_throughput": summary["steady"]["output_throughput"],
        "output_throughput_low": tokens_low,
        "output_throughput_high": tokens_high,
        "stream": None if decision is None else decision.stream,
        "streams": {
            name: {
                "decision": str(one.verdict),
                "why": one.why,
                "slo_share": one.share,
                "slo_share_low": None if one.share is None else one.low,
                "slo_share_high": None if one.share is None else one.high,
            }
            for name, one in (of_streams or {}).items()
        },
    }


def _goodput_bounds(
    summary: Mapping[str, Any], decision: Decision | None, of_streams: Mapping[str, Decision] | None
) -> tuple[float | None, float | None]:
    """What the intervals of the shares make of the rates asked for; of streams with their own they are added up."""
    if decision is None or decision.share is None:
        return None, None
    if of_streams:
        asked = [(summary["streams"][name]["fidelity"]["asked"]["rate_rps"], one) for name, one in of_streams.items()]
    else:
        asked = [(summary["fidelity"]["asked"]["rate_rps"], decision)]
    if any(not rate_rps for rate_rps, _ in asked):
        return None, None
    return sum(rate_rps * one.low for rate_rps, one in asked), sum(rate_rps * one.high for rate_rps, one in asked)


def capacity_figures(
    found: Capacity | None,
    steps: Sequence[Mapping[str, Any]],
    base_rps: float | None,
    slo: Slo | Slos | None,
    slo_share: float,
    *,
    workload: str,
    finished: bool,
) -> dict[str, Any]:
    """The answer so far.

    `scale` and `rate_rps`: where the capacity most likely lies; `low`, `high` (with `_rps`): the highest scale that
    held and the lowest that failed; None where there is none yet. `base_rps`: the workload's rate at scale 1. `slo`:
    None without one, and nothing in it where streams have different ones; `slo_share`. `limited_by`: `server`, `client`
    or `range`; None while the search goes on, or where it was interrupted: `finished` says so. `limiting_stream`: where
    each stream of a mix has an SLO of its own, the one by which the lowest scale that failed did so; None where there
    is none, or where requests in flight grew. `knee_rps`: where TTFT p99 begins to rise steeply. `requests`: sent in
    all. `steps`: see `step_figures`, in the order in which they were taken.
    """
    scales = {
        "scale": None if found is None else found.estimate,
        "low": None if found is None else found.low,
        "high": None if found is None else found.high,
    }
    rates = {
        name: None if scale is None or base_rps is None else scale * base_rps
        for name, scale in (("rate_rps", scales["scale"]), ("low_rps", scales["low"]), ("high_rps", scales["high"]))
    }
    return {
        **scales,
        **rates,
        "base_rps": base_rps,
        "workload": workload,
        "slo": None if slo is None else slo.as_dict(),
        "slo_share": slo_share,
        "limited_by": found.limited_by if found is not None and finished else None,
        "limiting_stream": _limiting_stream(scales["high"], steps),
        "finished": finished,
        "knee_rps": _knee(steps),
        "requests": sum(step["requests"] for step in steps),
        "steps": list(steps),
    }


def _limiting_stream(high: float | None, steps: Sequence[Mapping[str, Any]]) -> str | None:
    failed = (step["stream"] for step in steps if step["scale"] == high and step["decision"] == Verdict.FAILS)
    return next(failed, None)


def _knee(steps: Sequence[Mapping[str, Any]]) -> float | None:
    points = {step["rate_rps"]: step["p99_ttft_ms"] for step in steps if step["rate_rps"] and step["p99_ttft_ms"]}
    rates = sorted(points)
    return knee(rates, [points[rate] for rate in rates])


def _tokens_by_second(tally: Tally) -> FloatArray:
    window = tally.window
    return tally.series.by_second("output_tokens", math.ceil(window.start_s), math.floor(window.end_s))


def _bounds(values: FloatArray) -> tuple[float | None, float | None]:
    """Of the mean of values that hang together over some time: by the means of 16 batches, and Student."""
    if len(values) < BATCHES:
        return None, None
    batch = len(values) // BATCHES
    means = values[: BATCHES * batch].reshape(BATCHES, batch).mean(axis=1)
    margin = student((1 + CONFIDENCE) / 2, BATCHES - 1) * float(means.std(ddof=1)) / math.sqrt(BATCHES)
    mean = float(np.mean(means))
    return max(mean - margin, 0.0), mean + margin


CAPACITY_NAMES = frozenset(capacity_figures(None, (), None, None, 0.5, workload="", finished=False))
"""What there is of a search."""
STEP_NAMES = frozenset({
    "run", "scale", "rate_rps", "requests", "seconds", "verdict", "reasons", "decision", "why",
    "slo_share", "slo_share_low", "slo_share_high", *_LATENCIES,
    "goodput_rps", "goodput_low_rps", "goodput_high_rps",
    "output_throughput", "output_throughput_low", "output_throughput_high", "stream", "streams",
})  # fmt: skip
"""What there is of a step."""
