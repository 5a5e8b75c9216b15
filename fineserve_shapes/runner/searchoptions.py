"""Search options: what is asked of a search for a capacity, read from the command line or the form."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.capacity import Search
from fineserve_shapes.measure.decision import checked_share, fewest
from fineserve_shapes.measure.progress import clock
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.sweep import Sweep
from fineserve_shapes.runner.searching import Cut, Searching, Sought
from fineserve_shapes.values import Values
from fineserve_shapes.workload.plan import Plan

logger = logging.getLogger(__name__)

MISSES = 50
"""A step has so many requests by default that the SLO allows so many of them to miss."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Each field has the name of its flag; scales and rates are empty where a search is asked for, and fewest is how many
    requests a step needs."""

    workload: str
    slo: Slo | Slos | None
    slo_share: float
    start_scale: float
    min_scale: float
    max_scale: float
    max_steps: int | None
    step_requests: int | None
    step_time_s: float | None
    settle_s: float
    scales: tuple[float, ...]
    rates: tuple[float, ...]
    fewest: int
    streams: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Values, slo: Slo | Slos | None, streams: tuple[str, ...] = ()) -> SearchOptions:
        """slo: of the workload's streams. streams: their names where any has an SLO of its own. Raises InputError for what
        no search can have."""
        scales, rates = values.numbers("--scales"), values.numbers("--rates")
        if scales and rates:
            raise InputError("a sweep goes over scales or over rates, not both (--scales, --rates)")
        if slo is None and not scales and not rates:
            raise InputError(
                "a capacity is that under an SLO: say what makes an answer good (--slo ttft=500ms,tpot=50ms)"
            )
        if values.number("--run-time"):
            raise InputError("a search ends by itself, each step too: --step-time takes the place of --run-time (-t)")
        if values.not_negative("--warmup-seconds"):
            raise InputError("a step's warm-up is --settle: it takes the place of --warmup-seconds")
        if values.switch("--fail-if-slo-missed"):
            raise InputError(
                "a search misses the SLO in order to find where: --threshold 'capacity.rate_rps>=20' fails where the"
                " capacity is less, in place of --fail-if-slo-missed"
            )
        share = checked_share(values.share("--slo-share") or 0.99)
        needed = 1 if slo is None else fewest(share)
        requests, time_s = values.count("--step-requests"), values.number("--step-time")
        if requests is None and time_s is None:
            requests = max(math.ceil(round(MISSES / (1 - share), 6)), needed)
        return cls(
            workload=values.text("--workload") or "poisson",
            slo=slo,
            slo_share=share,
            start_scale=values.number_or("--start-scale", 1.0),
            min_scale=values.number_or("--min-scale", 1 / 64),
            max_scale=values.number_or("--max-scale", 64.0),
            max_steps=values.count("--max-steps"),
            step_requests=requests,
            step_time_s=time_s,
            settle_s=values.not_negative("--settle"),
            scales=tuple(scales),
            rates=tuple(rates),
            fewest=needed,
            streams=streams,
        )


def searching(asked: SearchOptions, plan: Plan, cut: Cut) -> Searching:
    """The search, or the sweep. Raises InputError where the workload has no rate, or less than a step of requests."""
    from scipy import optimize, special  # noqa: F401 - now: it takes half a second, in which a run's requests would wait

    scales = asked.scales
    if asked.rates:
        base_rps = cut(plan)[0].rate_rps
        if not base_rps:
            raise InputError("the workload has no rate that could be scaled: sweep over --scales")
        scales = tuple(rate_rps / base_rps for rate_rps in asked.rates)
    search = (
        Sweep(asked.slo_share, scales) if scales
        else Search(asked.slo_share, asked.start_scale, asked.min_scale, asked.max_scale, most_steps=asked.max_steps)
    )  # fmt: skip
    logger.info("%s", _foretold(asked, scales, plan, cut))
    sought = Sought(asked.slo, asked.slo_share, asked.settle_s, asked.workload, early=not scales, streams=asked.streams)
    return Searching(sought, search, plan, cut)


def _foretold(asked: SearchOptions, scales: Sequence[float], plan: Plan, cut: Cut) -> str:
    """How long it will take, for who has to wait. Raises InputError where a step cannot be made."""
    if scales:
        spans_s = [cut(plan.faster(scale))[0].span_s or 0.0 for scale in scales]
        return f"a sweep of {len(scales)} steps, {clock(sum(spans_s))} in all and what answers take to end after each"
    step, _ = cut(plan.faster(asked.start_scale))
    return (
        f"a search: {step.requests or 0:,} requests a step at most, {clock(step.span_s or 0.0)} at the first scale; clear"
        f" steps end after a quarter, the search after {asked.max_steps} steps at most"
    )
