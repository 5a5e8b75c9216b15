"""Searches for a capacity that is known: how often the interval holds it, and how near the answer is.

`make coverage` (SEARCHES=200). A server that serves one by one, 200 requests/s at most, gets gamma gaps; the SLO is a time
that a share of the requests must not exceed, and at what load they no longer do is known in closed form.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from benchmarks.workloads import queue_root
from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.measure.capacity import Capacity, Search
from fineserve_shapes.measure.decision import LOOKS, Decision, Seen, Verdict, decide

SERVICE_S = 0.005
WARMUP_S = 10.0
SEARCHES = 200


@dataclass(frozen=True)
class Server:
    """cv: of the gaps. share: what must be met. limit_s: within what time. longest_s: of a step."""

    cv: float
    share: float
    limit_s: float
    longest_s: float

    @property
    def capacity(self) -> float:
        """The load (1: the server never rests) at which exactly that share of the requests meets the limit."""
        wanted = 1 - math.log(1 / (1 - self.share)) * SERVICE_S / self.limit_s
        return float(optimize.brentq(lambda load: queue_root(load, self.cv) - wanted, 0.01, 0.9999))

    def seen(self, rng: np.random.Generator, load: float) -> Seen:
        """A step of the longest duration, from an empty server, second by second after the warm-up."""
        seconds = int(WARMUP_S + self.longest_s)
        shape = 1 / self.cv**2
        n = int(1.2 * seconds * load / SERVICE_S + 20 * self.cv * math.sqrt(seconds * load / SERVICE_S))
        at_s = np.cumsum(rng.gamma(shape, SERVICE_S / load / shape, n))
        at_s = at_s[at_s < seconds]
        services = rng.exponential(SERVICE_S, len(at_s))
        walk = np.cumsum(np.concatenate([[0.0], services[:-1] - np.diff(at_s)]))
        took_s = walk - np.minimum.accumulate(walk) + services
        count = self._by_second
        ends = np.sort(at_s + took_s)
        moments = np.arange(seconds) + 0.5
        in_flight = np.searchsorted(at_s, moments) - np.searchsorted(ends, moments)
        warm = int(WARMUP_S)
        return Seen(
            count(at_s, seconds)[warm:],
            count(at_s[took_s > self.limit_s], seconds)[warm:],
            count(at_s[took_s > self.limit_s / 2], seconds)[warm:],
            in_flight[warm:].astype(np.float64),
        )

    @staticmethod
    def _by_second(at_s: FloatArray, seconds: int) -> FloatArray:
        return np.bincount(at_s.astype(np.int64), minlength=seconds).astype(np.float64)


SERVERS = (
    Server(cv=1.0, share=0.9, limit_s=0.04, longest_s=240),
    Server(cv=1.0, share=0.99, limit_s=0.08, longest_s=480),
    Server(cv=2.0, share=0.9, limit_s=0.1, longest_s=480),
    Server(cv=2.0, share=0.99, limit_s=0.2, longest_s=960),
)


def step(server: Server, rng: np.random.Generator, load: float) -> tuple[Decision, float]:
    """Look at a step as it goes on. Returns the decision and how long the step took, seconds."""
    seen = server.seen(rng, load)
    for look, progress in enumerate(LOOKS):
        end = int(progress * server.longest_s)
        assert seen.nearly is not None
        so_far = Seen(seen.totals[:end], seen.missed[:end], seen.nearly[:end], seen.in_flight[:end])
        decision = decide(so_far, server.share, look)
        if decision.verdict is not Verdict.UNDECIDED:
            break
    return decision, WARMUP_S + end


def search(server: Server, rng: np.random.Generator) -> tuple[Capacity, float]:
    """One search, from a load between a quarter and twice the capacity. Returns the answer and the seconds it took."""
    start = server.capacity * math.exp(rng.uniform(math.log(0.25), math.log(2)))
    found = Search(server.share, start)
    took_s = 0.0
    while (load := found.next_scale) is not None:
        decision, lasted_s = step(server, rng, load)
        took_s += lasted_s
        found.take(decision)
    return found.capacity, took_s


@dataclass(frozen=True)
class Quality:
    """Shares of searches: covers, the capacity lies in the interval; near, the estimate is within 5 % of it. Means: steps,
    minutes, and width, high / low - 1."""

    covers: float
    near: float
    steps: float
    minutes: float
    width: float


def quality(server: Server, searches: int, seed: int) -> Quality:
    """Search again and again."""
    rng = np.random.default_rng(seed)
    truth = server.capacity
    covers = near = 0
    steps, took_s, widths = [], [], []
    for _ in range(searches):
        found, lasted_s = search(server, rng)
        low, high = found.low or 0.0, found.high or math.inf
        covers += low <= truth <= high
        near += abs((found.estimate or 0.0) / truth - 1) <= 0.05
        steps.append(found.steps)
        took_s.append(lasted_s)
        widths.append(high / low - 1)
    return Quality(
        covers / searches,
        near / searches,
        float(np.mean(steps)),
        float(np.mean(took_s)) / 60,
        float(np.mean(widths)),
    )


def main() -> None:
    """Print the table."""
    searches = int(os.environ.get("SEARCHES", SEARCHES))
    for server in SERVERS:
        seen = quality(server, searches, seed=1)
        print(f"gaps of CV {server.cv:g}, {server.share:.0%} within {1e3 * server.limit_s:g} ms: capacity at load"
              f" {server.capacity:.3f}; interval holds it {seen.covers:.1%}, estimate within 5 % {seen.near:.1%},"
              f" width {seen.width:.1%}, {seen.steps:.1f} steps, {seen.minutes:.0f} minutes", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
