"""Decision: whether a load keeps to an SLO, taken as early as is sound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.dependence import effective
from fineserve_shapes.measure.saturation import growth
from fineserve_shapes.measure.shares import lower, upper
from fineserve_shapes.rounding import rounded

LOOKS = (0.25, 0.5, 0.75, 1.0)
"""When a step is looked at, as shares of its longest duration without the warm-up."""
SUSPICION = 0.95
STEP_ERROR = 0.005
"""How often a step may hold wrongly, and how often it may fail wrongly: a search takes about ten."""


class Verdict(StrEnum):
    """What came of a step. invalid: the load asked for was not delivered, so that it says nothing of the server."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Seen:
    """A step so far, by block of time (in order, of a second or less), the warm-up left out.

    totals: requests due, shape (b,), as all that follow but the last. missed: those that did not meet the SLO, whatever
    became of them. nearly: those that missed, or would have with half of each limit: they show what binds requests
    together before there are many misses. open: those of which it is not known, since they have not ended, or not by
    themselves. in_flight: the mean number of requests in flight, in blocks of its own, of `block_s` seconds; empty: not
    known.
    """

    totals: FloatArray
    missed: FloatArray
    nearly: FloatArray | None = None
    in_flight: FloatArray = field(default_factory=lambda: np.empty(0))
    block_s: float = 1.0
    open: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """verdict; why, in words for a person; the share that met the SLO with its interval, as far as it is known; how many
    independent requests were seen; the stream of a mix by which it was decided, None where there is none; and whether it
    fails since requests in flight grow."""

    verdict: Verdict
    why: str
    share: float | None = None
    low: float = 0.0
    high: float = 1.0
    effective: float = 0.0
    stream: str | None = None
    grows: bool = False


def spent(progress: float, error: float = STEP_ERROR) -> float:
    """How much of the allowed error may be spent up to there: error * t^2.

    Source: Kim and DeMets, Biometrika 74, 1987; the idea: Lan and DeMets, Biometrika 70, 1983. Little is spent early,
    where only a clear case should decide.
    """
    return error * min(max(progress, 0.0), 1.0) ** 2


def checked_share(slo_share: float) -> float:
    """The share, if it is one. Raises InputError for 0 and 1 too: of neither could a sample be sure."""
    if not 0 < slo_share < 1:
        raise InputError(f"--slo-share must lie between 0 and 1, both left out, got {slo_share:g}")
    return slo_share


def fewest(slo_share: float, error: float = STEP_ERROR) -> int:
    """How many requests a step must have at least, so that it can hold at its last look, were none of them to miss."""
    return math.ceil(math.log(_may_err(len(LOOKS) - 1, error)) / math.log(checked_share(slo_share)))


def decide(seen: Seen, slo_share: float, look: int, error: float = STEP_ERROR, ways: int = 1) -> Decision:
    """Decide at the look of that number, from 0, if that can be done.

    `holds`: the share of requests that meet the SLO is at least `slo_share`, with confidence, and there is no suspicion
    (95 %) that requests in flight grow. `fails`: the share is less, or requests in flight grow without end, however well
    the SLO is met so far. At the last look `undecided` is final.

    ways: of how many streams any by itself can fail the step; see `weakest`.

    Notes
    -----
    Who looks again and again until something is significant will see it by chance. The looks are therefore fixed
    beforehand (`LOOKS`), and each may err with what `spent` adds from the look before. These errors add up to `error` at
    most, however the looks depend on each other (Boole's inequality), for `holds` and for `fails`, each of which shares
    its own between misses and growth. Where any of several streams can fail the step, each has its part of that.
    Bounds are Clopper's and Pearson's, on the effective sample size. Requests that are open count against either
    verdict: as missed where the step would hold, as met where it would fail.
    """
    may_err = _may_err(look, error)
    n, missed = float(seen.totals.sum()), float(seen.missed.sum())
    if not n:
        return Decision(Verdict.UNDECIDED, "no request was due")
    is_open = np.zeros_like(seen.totals) if seen.open is None else seen.open
    marks = [seen.missed] if seen.nearly is None else [seen.missed, seen.nearly]
    worth = min(effective(marked, seen.totals, 1 - may_err) for marked in marks)
    at_worst, worth_at_worst = missed + float(is_open.sum()), worth
    if at_worst > missed:
        worth_at_worst = min(effective(marked + is_open, seen.totals, 1 - may_err) for marked in marks)
    most = float(upper(at_worst / n * worth_at_worst, worth_at_worst, 1 - may_err))
    least = float(lower(missed / n * worth, worth, 1 - may_err / 2 / ways))
    share, low, high = 1 - missed / n, 1 - most, 1 - least
    at_s = np.arange(len(seen.in_flight), dtype=np.float64) * seen.block_s
    grown, suspected = (growth(at_s, seen.in_flight, confidence) for confidence in (1 - may_err / 2, SUSPICION))
    if high < slo_share:
        why, verdict = f"{share:.2%} met the SLO, at most {high:.2%}: less than {slo_share:.4g}", Verdict.FAILS
    elif grown is not None and grown.grows:
        why = f"requests in flight grow by {rounded(grown.slope_rps)} per second, at least {rounded(grown.low_rps)}"
        verdict = Verdict.FAILS
    else:
        why = f"{share:.2%} met the SLO, between {low:.2%} and {high:.2%}"
        verdict = Verdict.HOLDS if low >= slo_share else Verdict.UNDECIDED
        if verdict is Verdict.HOLDS and suspected is not None and suspected.grows:
            why, verdict = f"{why}, but requests in flight may grow", Verdict.UNDECIDED
    grows = verdict is Verdict.FAILS and high >= slo_share
    return Decision(verdict, why, share, low, high, worth, grows=grows)


def weakest(decisions: Mapping[str, Decision]) -> Decision:
    """The decision of a mix whose streams have an SLO each, by name: it holds where all do, and fails where any does.

    It is that of the stream with the least share among those that decide. Where requests in flight grow, and no stream
    fails by its share, that is no one stream's doing.

    Notes
    -----
    That all streams hold is an intersection-union test: the step holds wrongly only where its weakest stream does, so
    that each may take the whole of what a step may err (Berger, Technometrics 24, 1982). That any fails is a union: each
    takes its part (`ways` of `decide`).
    """
    deciding = next(
        verdict for verdict in (Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS)
        if any(one.verdict is verdict for one in decisions.values())
    )  # fmt: skip
    found = {name: one for name, one in decisions.items() if one.verdict is deciding}
    by_share = {name: one for name, one in found.items() if not one.grows}
    if not by_share:
        return min(found.values(), key=_share)
    stream, one = min(by_share.items(), key=lambda item: _share(item[1]))
    return replace(one, why=f"{stream}: {one.why}", stream=stream)


def _share(decision: Decision) -> float:
    return 0.0 if decision.share is None else decision.share


def _may_err(look: int, error: float) -> float:
    """How often the look of that number may be wrong."""
    return spent(LOOKS[look], error) - (spent(LOOKS[look - 1], error) if look else 0.0)
