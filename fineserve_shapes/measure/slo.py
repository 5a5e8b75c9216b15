"""SLO: which answers were good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fineserve_shapes.arrays import BoolArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure import records
from fineserve_shapes.measure.duration import duration_s
from fineserve_shapes.measure.ledger import OK

_METRICS = {
    "ttft": records.ttft_s,
    "ttft_from_due": records.ttft_from_due_s,
    "tpot": records.tpot_s,
    "e2e": records.e2e_s,
}


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds on the latencies of one request; all must be met.

    limits_s: bound by metric (`ttft`, `ttft_from_due`, `tpot`, `e2e`), seconds.
    """

    limits_s: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str, flag: str = "--slo") -> Slo:
        """Read `ttft=500ms,tpot=50ms`. Raises InputError naming the flag."""
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            name = name.strip()
            if name not in _METRICS:
                raise InputError(f"{flag} knows {', '.join(_METRICS)}, got {part.strip()!r} (ttft=500ms,tpot=50ms)")
            limits[name] = duration_s(value, f"{flag} {name}")
        return cls(tuple(limits.items()))

    def met(self, rows: records.Records) -> BoolArray:
        """Which requests were `ok` and met every bound, shape (n,).

        An answer of one token has no TPOT and meets its bound; one without a time of its first token (it was not
        streamed) cannot meet a bound on TTFT.
        """
        good = np.asarray(rows["outcome"] == OK)
        for name, limit_s in self.limits_s:
            value_s = _METRICS[name](rows)
            with np.errstate(invalid="ignore"):
                met = value_s <= limit_s
            good &= (met | np.isnan(value_s)) if name == "tpot" else met
        return good

    def tighter(self, factor: float) -> Slo:
        """The same with each bound divided by the factor."""
        return Slo(tuple((name, limit_s / factor) for name, limit_s in self.limits_s))

    def as_dict(self) -> dict[str, float]:
        """The bounds in milliseconds: `{"ttft_ms": 500.0}`."""
        return {f"{name}_ms": 1e3 * limit_s for name, limit_s in self.limits_s}
