"""Capacity: the highest load that keeps to an SLO, searched step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.decision import Decision, Verdict, checked_share

TOLERANCE = 0.05
BRACKET = 2.0

Limit = Literal["server", "client", "range"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The answer; scales are multiples of the plan's rate.

    low: the highest scale that held. high: the lowest that failed. The capacity lies between them with confidence; None:
    there was no such scale. estimate: where it most likely lies. limited_by: `server`; `client`, where a load could not be
    delivered twice; `range`, where the highest scale to be tried held, or the lowest did not. steps: how many were taken.
    """

    low: float | None
    high: float | None
    estimate: float | None
    limited_by: Limit
    steps: int


class Search:
    """Doubles (or halves) the scale until the capacity lies between two, then takes the middle, until it is known well.

    It is driven from outside: run `next_scale`, give what was decided to `take`, until `next_scale` is None.

    A scale that `holds` is a lower bound, one that `fails` an upper one. One that stays `undecided` is near the capacity:
    it bounds nothing. The search goes first to where the answer most likely lies, taking such a scale by whether the SLO's
    share was met there; then below and above what stays undecided, for the bounds. Middles are geometric, since scales are
    ratios. The end is where high / low is at most 1 + tolerance, or, around scales that stay undecided, both sides are half
    as narrow. An `invalid` step is repeated once; a second time in a row ends the search, and the client is the limit.

    With a step's error of 0.5 % (`decision.STEP_ERROR`) and ten steps the interval misses the capacity in at most one
    search of twenty (Boole's inequality).

    slo_share: what share of the requests must meet the SLO. start: the first scale. lowest, highest: what may be tried.
    tolerance: how narrow the interval is to be. most_steps: the search ends after so many, however wide it is.
    """

    def __init__(
        self,
        slo_share: float,
        start: float = 1.0,
        lowest: float = 1 / 64,
        highest: float = 64.0,
        tolerance: float = TOLERANCE,
        most_steps: int | None = None,
    ) -> None:
        if not 0 < lowest <= start <= highest < math.inf:
            raise InputError(
                "a search begins between its lowest and its highest scale, above 0,"
                f" got {start:g} for {lowest:g} to {highest:g}"
            )
        if not 0 < tolerance < 1:
            raise InputError(f"the tolerance of a search must lie between 0 and 1, got {tolerance:g}")
        if most_steps is not None and most_steps < 1:
            raise InputError(f"a search takes at least one step, got {most_steps} (--max-steps)")
        self._slo_share = checked_share(slo_share)
        self._most_steps = math.inf if most_steps is None else most_steps
        self._lowest, self._highest, self._tolerance = lowest, highest, tolerance
        self._low: float | None = None
        self._high: float | None = None
        self._undecided: list[float] = []  # ascending
        self._seen: list[tuple[float, float, Decision]] = []  # scale, share that met the SLO
        self._repeated = False
        self._limit: Limit = "server"
        self._steps = 0
        self.next_scale: float | None = start

    def take(self, decision: Decision) -> None:
        """The step at `next_scale` has ended. Raises ValueError where the search is over."""
        scale = self.next_scale
        if scale is None:
            raise ValueError("the search is over")
        self._steps += 1
        if decision.verdict is Verdict.INVALID:
            self._repeated = not self._repeated
            if not self._repeated:
                self._give_up()
            if self.next_scale is not None and self._steps >= self._most_steps:
                self.stop()
            return
        self._repeated = False
        if decision.share is not None:
            self._seen.append((scale, decision.share, decision))
        match decision.verdict:
            case Verdict.HOLDS:
                self._low = scale
            case Verdict.FAILS:
                self._high = scale
            case _:
                self._undecided.append(scale)
        low, high = self._low or 0.0, self._high or math.inf
        self._undecided = sorted(one for one in self._undecided if low < one < high)
        self.next_scale = self._choose()
        if self.next_scale is not None and self._steps >= self._most_steps:
            self.stop()

    def _give_up(self) -> None:
        """The load at `next_scale` could not be delivered twice."""
        self._limit, self.next_scale = "client", None

    def stop(self) -> None:
        """Take no further step; without a bound on either side what was tried is the limit."""
        self.next_scale = None
        if self._low is None or self._high is None:
            self._limit = "range"

    @property
    def capacity(self) -> Capacity:
        """The answer as far as it is known."""
        return Capacity(self._low, self._high, self._estimate(), self._limit, self._steps)

    def _estimate(self) -> float | None:
        """Where the share of misses, which can only grow with the scale, crosses what the SLO allows.

        The steps' shares are made to ascend by pooling (isotonic regression: Barlow et al., 1972, section 1.2), each with
        the weight of its independent requests, and log odds are drawn straight over log scales between them.
        """
        if self._low is None or self._high is None:
            return self._low
        from scipy import optimize, special  # here: workers have no use for it, and it takes long to import

        allowed = 1 - self._slo_share
        steps = sorted(self._seen, key=lambda step: step[0])
        missed = np.array(
            [max(1 - share, allowed) if one.verdict is Verdict.FAILS else 1 - share for _, share, one in steps]
        )
        weights = np.array([max(one.effective, 1.0) for *_, one in steps])
        crossing = None
        if steps:
            smooth = optimize.isotonic_regression(missed, weights=weights).x
            odds = special.logit(np.clip(smooth, 0.5 / weights, 1 - 1e-6))
            crossing = _crossing(np.log([scale for scale, *_ in steps]), odds, float(special.logit(allowed)))
        middle = math.sqrt(self._low * self._high) if crossing is None else math.exp(crossing)
        return min(max(middle, self._low), self._high)

    def _choose(self) -> float | None:
        likely = self._choose_likely()
        return self._choose_certain() if likely is None else likely

    def _choose_likely(self) -> float | None:
        """Towards the answer, by what undecided scales look like; None: that is as near as it is to be."""
        met = {scale: share >= self._slo_share for scale, share, _ in self._seen}
        lows = [scale for scale in self._undecided if met.get(scale) is True]
        highs = [scale for scale in self._undecided if met.get(scale) is False]
        if not lows and not highs:
            return None
        low, high = max(lows, default=self._low), min(highs, default=self._high)
        if low is None:
            return None if high == self._lowest or high is None else max(high / BRACKET, self._lowest)
        if high is None:
            return None if low == self._highest else min(low * BRACKET, self._highest)
        return math.sqrt(low * high) if high > (1 + self._tolerance) * low else None

    def _choose_certain(self) -> float | None:
        below = self._undecided[0] if self._undecided else self._high
        above = self._undecided[-1] if self._undecided else self._low
        if self._low is None:
            assert below is not None
            return self._outwards(below, self._lowest, 1 / BRACKET)
        if self._high is None:
            assert above is not None
            return self._outwards(above, self._highest, BRACKET)
        assert below is not None
        assert above is not None
        widest = 1 + self._tolerance
        if widest * self._low >= self._high:
            return None
        if self._undecided:
            widest = math.sqrt(widest)
        # from below first: what held is the answer
        for left, right in ((self._low, below), (above, self._high)):
            if right > widest * left:
                return math.sqrt(left * right)
        return None

    def _outwards(self, scale: float, end: float, factor: float) -> float | None:
        """Further towards the end of the range; None where it has been tried."""
        if scale == end:
            self._limit = "range"
            return None
        return min(scale * factor, end) if factor > 1 else max(scale * factor, end)


def _crossing(x: FloatArray, y: FloatArray, level: float) -> float | None:
    """Where a line through points, y ascending but for small steps back, first rises above a level; None: nowhere."""
    above = np.flatnonzero(y > level)
    if not len(above) or not above[0]:
        return None
    right = int(above[0])
    left = right - 1
    return float(x[left] + (x[right] - x[left]) * (level - y[left]) / (y[right] - y[left]))
