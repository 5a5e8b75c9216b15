"""Stretch: how much of a workload a step of a search takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.plan import Plan


@dataclass(frozen=True, slots=True)
class Stretch:
    """The beginning of a plan: what is due while the server settles, and then so much.

    settle_s: seconds of settling. requests: how many after it; None: as many as are due within time_s. fewest: in any case
    so many, so that a decision is possible.
    """

    settle_s: float
    requests: int | None
    time_s: float | None
    fewest: int

    def __post_init__(self) -> None:
        if (self.requests is None) == (self.time_s is None):
            raise InputError("a step has either so many requests (--step-requests) or so many seconds (--step-time)")
        if self.time_s is not None and not 0 < self.time_s < math.inf:
            raise InputError(f"a step must last for some time, got {self.time_s:g} s (--step-time)")
        if self.requests is not None and self.requests < self.fewest:
            raise InputError(
                f"a step of {self.requests:,} requests can show nothing: at least {self.fewest:,} are needed for this"
                " --slo-share (--step-requests)"
            )

    def of(self, plan: Plan) -> tuple[Plan, float]:
        """The stretch of a plan, and its seconds after settling. A plan that ends sooner is taken to its end.

        Raises InputError where there are too few requests.
        """
        wanted = self.fewest if self.requests is None else self.requests
        count, last_s = 0, 0.0
        for block in plan:
            after_s = block.due_s[int(np.searchsorted(block.due_s, self.settle_s)) :]
            if count + len(after_s) >= wanted:
                end_s = float(after_s[wanted - count - 1])
                if self.time_s is not None:
                    end_s = max(end_s, self.settle_s + self.time_s)
                if end_s <= self.settle_s:
                    raise InputError("requests that are all due at once have no rate that could be scaled")
                return plan.between(0.0, float(np.nextafter(end_s, math.inf))), end_s - self.settle_s
            count += len(after_s)
            last_s = float(block.due_s[-1])
        if count < max(self.fewest, 1) or last_s <= self.settle_s:
            raise InputError(
                f"the workload ends after {last_s:.4g} s, with {count:,} requests after {self.settle_s:g} s of settling,"
                f" and a step needs {max(self.fewest, 1):,}: take a longer trace, or a shorter --settle"
            )
        return plan, last_s - self.settle_s
