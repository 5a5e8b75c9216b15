"""Progress: a run in one line, while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fineserve_shapes.rounding import rounded


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    done: requests that were answered or failed. aside: how many ended otherwise, by outcome, those that do not occur left
    out. planned: rows of the plan, None where that is not known yet. end_s: when the last of them is due, or the run time
    ends. rate_rps: requests sent per second of late. ttft_p50_s, ttft_p99_s: of the run so far.
    """

    elapsed_s: float
    done: int
    planned: int | None
    rate_rps: float
    in_flight: int
    failed: int
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    end_s: float | None
    aside: Mapping[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """`0:42  210 of 500 done  5.0/s  12 in flight  TTFT p50 120 ms p99 300 ms  0 failed  0:58 left`."""
        parts = [
            clock(self.elapsed_s),
            f"{self.done:,} of {self.planned:,} done" if self.planned is not None else f"{self.done:,} done",
            f"{rounded(self.rate_rps)}/s",
            f"{self.in_flight:,} in flight",
        ]
        if self.ttft_p50_s is not None and self.ttft_p99_s is not None:
            parts.append(f"TTFT p50 {1e3 * self.ttft_p50_s:,.0f} ms p99 {1e3 * self.ttft_p99_s:,.0f} ms")
        parts += [f"{self.failed:,} failed", *(f"{count:,} {outcome}" for outcome, count in self.aside.items())]
        if self.end_s is not None:
            left_s = self.end_s - self.elapsed_s
            parts.append(f"{clock(left_s)} left" if left_s > 0 else "waiting for the last answers")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """`0:42`, `1:01:40`."""
    minutes, second = divmod(max(int(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
