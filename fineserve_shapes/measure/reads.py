"""Reads: how late a process read what had come, and how far the times of tokens can be off for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.totals import ms


@dataclass(slots=True)
class Reads:
    """Reads that held tokens.

    delay: from the kernel's stamp of the newest byte to the read, one value a read. first_unsure: by how much the time
    of an answer's first token can be off, one value an answer; 0 where it had a stamp of its own. shared_unsure: the
    same for each read that held several pieces of a stream which the server had not sent as one, and were not told apart.
    between: the same for each piece that was told apart from others of its read, by pieces of other streams between which
    it came.
    """

    delay: Histogram = field(default_factory=Histogram)
    first_unsure: Histogram = field(default_factory=Histogram)
    shared_unsure: Histogram = field(default_factory=Histogram)
    between: Histogram = field(default_factory=Histogram)

    @property
    def shared_share(self) -> float | None:
        """The share of reads that held several pieces not told apart; None where nothing was read."""
        return self.shared_unsure.count / self.delay.count if self.delay.count else None

    def unsure_share(self, beyond_s: float) -> float | None:
        """The share of reads that held several pieces of a stream, of which one may be off by more than that."""
        unsure = self.shared_unsure.above(beyond_s) + self.between.above(beyond_s)
        return min(unsure / self.delay.count, 1.0) if self.delay.count else None

    def merge(self, other: Reads) -> None:
        """Add another's."""
        self.delay.merge(other.delay)
        self.first_unsure.merge(other.first_unsure)
        self.shared_unsure.merge(other.shared_unsure)
        self.between.merge(other.between)

    def pack(self) -> list[dict[str, Any]]:
        """Plain values for a message."""
        return [histogram.pack() for histogram in (self.delay, self.first_unsure, self.shared_unsure, self.between)]

    @classmethod
    def unpack(cls, packed: Any) -> Reads:
        """What was packed. Raises ValueError, KeyError or TypeError for anything else."""
        delay, first, shared, between = packed
        return cls(*map(Histogram.unpack, (delay, first, shared, between)))

    def as_dict(self) -> dict[str, Any]:
        """`reads`, `shared_share`, and in milliseconds `delay_p50_ms`, `delay_p99_ms`, `delay_max_ms`,
        `first_unsure_p50_ms`, `first_unsure_p99_ms`, `shared_unsure_p99_ms`, `between_p99_ms`; None where there is
        nothing. And `between`: how many pieces have times between those of others."""
        return {
            "reads": self.delay.count,
            "shared_share": self.shared_share,
            "delay_p50_ms": ms(self.delay.quantile(0.5)),
            "delay_p99_ms": ms(self.delay.quantile(0.99)),
            "delay_max_ms": ms(self.delay.maximum_s if self.delay.count else None),
            "first_unsure_p50_ms": ms(self.first_unsure.quantile(0.5)),
            "first_unsure_p99_ms": ms(self.first_unsure.quantile(0.99)),
            "shared_unsure_p99_ms": ms(self.shared_unsure.quantile(0.99)),
            "between": self.between.count,
            "between_p99_ms": ms(self.between.quantile(0.99)),
        }
