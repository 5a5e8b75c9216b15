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


@dataclass(frozen=True, slots=True)
class Slos:
    """The SLO of each stream by its number, None where it has none."""

    by_stream: tuple[Slo | None, ...]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(slo is not None for slo in self.by_stream)

    def of(self, stream: int) -> Slo | None:
        """The stream's."""
        return self.by_stream[stream] if stream < len(self.by_stream) else None

    def tighter(self, factor: float) -> Slos:
        """The same with each bound divided by the factor."""
        return Slos(tuple(None if slo is None else slo.tighter(factor) for slo in self.by_stream))

    def as_dict(self) -> dict[str, float]:
        """The bounds where all streams have the same; else nothing."""
        return {} if self.common is None else self.common.as_dict()

    @property
    def common(self) -> Slo | None:
        """The SLO where all streams have the same."""
        return self.by_stream[0] if len(set(self.by_stream)) == 1 else None

    def met(self, rows: records.Records) -> BoolArray:
        """Which requests were `ok` and met their stream's bounds, shape (n,); those of a stream without any did not."""
        good = np.zeros(len(rows), dtype=bool)
        for number, slo in enumerate(self.by_stream):
            if slo is not None:
                mine = rows["stream"] == number
                good[mine] = slo.met(rows[mine])
        return good
