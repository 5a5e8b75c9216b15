"""Mixing: from the streams of a mix to the one plan of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.planning.madeplan import MadePlan
from fineserve_shapes.planning.mixfile import Mix
from fineserve_shapes.planning.replaying import Opening, replay
from fineserve_shapes.planning.synthesis import ended, parametric, poisson
from fineserve_shapes.shipped import DATASETS
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values
from fineserve_shapes.workload.mix import mixed_plan
from fineserve_shapes.workload.traces.trace import open_trace

_MAKERS: Mapping[str, tuple[Callable[[Values, Opening], MadePlan], str]] = {
    "replay": (lambda values, opened: replay(values, opened=opened), "--time-scale"),
    "poisson": (lambda values, _: poisson(values, 1.0, DATASETS), "--rate-scale"),
    "parametric": (lambda values, _: parametric(values, DATASETS), "--rate-scale"),
}
"""How the plan of a stream is made, and which option scales its rate."""


def mixed(mix: Mix, values: Values) -> MadePlan:
    """The plans of all streams as one.

    values: the command line's, whose --time-scale, --rate-scale, --keep-fraction and --num-prompts act on the whole; those
    of a stream act on it alone, and both compose. Raises InputError with the stream's name.
    """
    rate_scale = values.number_or("--rate-scale", 1.0)
    if not rate_scale > 0:
        raise InputError(f"a rate can be scaled by a positive number only, got {rate_scale:g} (--rate-scale)")
    keep = values.number_or("--keep-fraction", 1.0)
    if not 0 < keep <= 1:
        raise InputError(f"the fraction to keep must be above 0 and at most 1, got {keep} (--keep-fraction)")
    opened = cache(open_trace)  # a file that several streams read alike is read, and held, once for all of them
    made: dict[str, MadePlan] = {}
    for stream in mix.streams:
        try:
            made[stream.name] = _of_stream(stream, rate_scale, keep, opened)
        except InputError as error:
            raise InputError(f"stream {stream.name}: {error}") from None
    plan = mixed_plan(
        {name: one.plan for name, one in made.items()},
        details=lambda: {
            "streams": {name: one.plan.description() for name, one in made.items()},
            "unplaced": mix.unplaced,
        },
    )
    if (time_scale := values.number_or("--time-scale", 1.0)) != 1:
        plan = plan.faster(time_scale)
    return MadePlan(
        ended(plan, values, None),
        [f"stream {name}: {line}" for name, one in made.items() for line in one.lines],
        [*mix.notes, *(f"stream {name}: {warning}" for name, one in made.items() for warning in one.warnings)],
        list(dict.fromkeys(unsurveyed for one in made.values() for unsurveyed in one.unsurveyed)),
    )


def _of_stream(stream: Stream, rate_scale: float, keep: float, opened: Opening) -> MadePlan:
    """rate_scale, keep: of the whole mix. Which requests are kept is drawn by stream, so that it depends on no other.
    opened: opens traces."""
    values = stream.values
    if keep != 1:
        values = values.over({"keep_fraction": repr(keep * values.number_or("--keep-fraction", 1.0))})
    make, scaling = _MAKERS[str(stream.own["kind"])]
    scale = values.number_or(scaling, 1.0) * rate_scale
    made = make(values.over(_scaled(scaling, scale)), opened)
    rate_rps = values.number("--rate")
    if rate_rps is not None:
        if not rate_rps > 0:
            raise InputError(f"a rate is above 0, got {rate_rps:g}")
        if made.rate_rps is None:
            raise InputError(
                "its mean rate is not known before it has been read, so that it cannot be brought to another"
            )
        made = make(values.over(_scaled(scaling, scale * scale * rate_rps * keep / made.rate_rps)), opened)
    plan = made.plan
    if (run_time_s := values.number("--run-time")) is not None:
        plan = plan.between(0.0, run_time_s)
    if stream.own["kind"] != "replay" and (requests := values.count("--num-prompts")) is not None:
        plan = plan.limited(requests)
    return replace(made, plan=plan)


def _scaled(flag: str, scale: float) -> dict[str, Any]:
    return {flag.removeprefix("--").replace("-", "_"): repr(scale)}
