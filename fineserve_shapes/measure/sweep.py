"""Sweep: scales that were chosen beforehand, one after the other, whatever comes of them."""

from __future__ import annotations

from collections.abc import Sequence

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.capacity import Search
from fineserve_shapes.measure.decision import Decision, Verdict


class Sweep(Search):
    """Driven as a `Search` is. The bounds are the highest scale that held below the lowest that failed, and that one.

    A load that cannot be delivered twice bounds nothing, and does not end it: what was in its way may be gone at the next.
    """

    def __init__(self, slo_share: float, scales: Sequence[float]) -> None:
        if not scales:
            raise InputError("a sweep needs at least one scale (--scales) or rate (--rates)")
        self._left = sorted(set(scales))
        super().__init__(slo_share, self._left[0], self._left[0], self._left[-1])
        self._left.pop(0)
        self._decided: list[tuple[float, Verdict]] = []
        self._undelivered = False

    def take(self, decision: Decision) -> None:
        """As that of a search."""
        if self.next_scale is not None:
            self._decided.append((self.next_scale, decision.verdict))
        super().take(decision)

    def _give_up(self) -> None:
        self._undelivered = True
        self.next_scale = self._choose()

    def _choose(self) -> float | None:
        failed = [scale for scale, verdict in self._decided if verdict is Verdict.FAILS]
        self._high = min(failed, default=None)
        held = [scale for scale, verdict in self._decided if verdict is Verdict.HOLDS]
        self._low = max((scale for scale in held if self._high is None or scale < self._high), default=None)
        if self._left:
            return self._left.pop(0)
        if self._low is None or self._high is None:
            self._limit = "client" if self._undelivered else "range"
        return None
