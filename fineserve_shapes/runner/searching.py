"""Searching: the steps of a search for a capacity, or of a sweep, as runs of a test."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fineserve_shapes.engine.run import Run
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.capacity import Capacity, Search
from fineserve_shapes.measure.capacitysummary import capacity_figures, step_figures
from fineserve_shapes.measure.capacitytext import step_line
from fineserve_shapes.measure.decision import LOOKS, Decision, Verdict, decide, fewest, weakest
from fineserve_shapes.measure.dueblocks import DueBlocks
from fineserve_shapes.measure.names import ALONE
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.runner.step import Step
from fineserve_shapes.workload.plan import Plan

logger = logging.getLogger(__name__)

PATIENCE = 0.25
"""How long a look waits for the ends of requests, as a share of the step: until the next look would be due."""
BLOCKS = 128

Cut = Callable[[Plan], tuple[Plan, float]]


@dataclass(frozen=True, slots=True)
class Sought:
    """What is searched for.

    slo: None in a sweep that only draws a curve. slo_share: of the requests. settle_s: of each step. workload: its name.
    early: whether a step ends as soon as it is decided. streams: of a mix whose streams have SLOs of their own, by number:
    each of them holds the share; empty: all requests together do.
    """

    slo: Slo | Slos | None
    slo_share: float
    settle_s: float
    workload: str
    early: bool
    streams: tuple[str, ...] = ()


class Searching:
    """Drives a search (or a sweep) by runs.

    plan: the workload at scale 1. cut: its stretch for a step (see `Stretch.of`). Raises InputError where the first step
    cannot be made.
    """

    def __init__(self, sought: Sought, search: Search, plan: Plan, cut: Cut) -> None:
        self.sought = sought
        self.steps: list[dict[str, Any]] = []
        self._search = search
        self._plan = plan
        self._cut = cut
        self._numbered = 0  # requests of the steps so far: each has its own prompts
        self._requests, self._seconds = 0, 0.0  # of the workload at scale 1
        self._next: SearchStep | None = self._made()

    def runs(self) -> Generator[Step, dict[str, Any], None]:
        """The steps, for `PlanShape.runs`."""
        while (step := self._next) is not None:
            yield step

    def taken(self, decision: Decision | None, figures: dict[str, Any]) -> bool:
        """A step has ended; without a decision it was interrupted. Whether it was the last."""
        self.steps.append(figures)
        self._next = None
        if decision is None:
            return False
        self._search.take(decision)
        try:
            self._next = self._made()
        except InputError as error:
            logger.warning("the search ends: %s", error)
            self._search.stop()
        return self._next is None

    def figures(self, *, finished: bool) -> dict[str, Any]:
        """See `capacity_figures`."""
        sought = self.sought
        found: Capacity | None = None if sought.slo is None else self._search.capacity
        base_rps = self._requests / self._seconds if self._seconds else None
        return capacity_figures(
            found, self.steps, base_rps, sought.slo, sought.slo_share, workload=sought.workload, finished=finished
        )

    def _made(self) -> SearchStep | None:
        scale = self._search.next_scale
        if scale is None:
            return None
        plan, longest_s = self._cut(self._plan.faster(scale).numbered_from(self._numbered))
        requests, span_s = plan.requests, plan.span_s
        if requests is None or not span_s:
            raise InputError("a step is longer than can be counted: fewer requests will do (--step-requests)")
        if not self._numbered:
            self._check_streams(plan, requests)
        self._numbered += requests
        self._requests += requests
        self._seconds += span_s * scale
        return SearchStep(self, scale, plan, longest_s)

    def _check_streams(self, plan: Plan, requests: int) -> None:
        """Raises InputError where a stream has too few requests in a step to ever show the share."""
        sought = self.sought
        if not sought.streams or not sought.early:
            return
        counts = np.zeros(len(sought.streams), dtype=np.int64)
        for block in plan:
            counts += np.bincount(block.stream[block.due_s >= sought.settle_s], minlength=len(counts))
        needed, place = fewest(sought.slo_share), int(counts.argmin())
        if (least := int(counts[place])) < needed:
            enough = f"{math.ceil(1.2 * requests * needed / least)}" if least else "more"
            raise InputError(
                f"stream {sought.streams[place]!r} has {least:,} requests in a step, and shows its share with {needed:,} at"
                f" least, since it has an SLO of its own: --step-requests {enough}"
            )


class SearchStep(Step):
    """One step: a run at a scale that ends when it is decided, at the latest at its end.

    Looks are taken at times fixed beforehand (`LOOKS`), at the requests that were due before. A look waits until they have
    ended, for a quarter of the step at most; what is open then counts against either verdict.
    """

    probe = True

    def __init__(self, searching: Searching, scale: float, plan: Plan, longest_s: float) -> None:
        super().__init__(plan, searching.sought.settle_s)
        self.follows = bool(searching.steps)
        self.final = False
        self.extra = {"capacity": searching.figures(finished=False)}
        self._searching = searching
        self._scale = scale
        self._longest_s = longest_s
        sought = searching.sought
        self._blocks = _blocks(sought, min(1.0, longest_s / BLOCKS))
        self._look = 0 if sought.early else len(LOOKS) - 1
        self._decision: Decision | None = None
        self._of_streams: dict[str, Decision] = {}
        self._concluded = False

    def begin(self, run: Run) -> None:
        """Have requests counted by when they were due."""
        run.tally.followers += self._blocks.values()

    def enough(self, run: Run) -> bool:
        """Take the next look when it is due."""
        if self._look >= len(LOOKS):
            return True
        waited_s = run.now_s - self._until_s(self._look)
        if waited_s < 0:
            return False
        if self._open(run) and waited_s < PATIENCE * self._longest_s:
            return False
        self._take_look(run, self._look)
        self._look += 1
        return self._decided or self._look == len(LOOKS)

    def conclude(self, run: Run, summary: dict[str, Any]) -> None:
        """Decide, if that has not been done, and put the search so far into the summary."""
        at_end = (run.end_s or 0.0) >= self._until_s(len(LOOKS) - 1)
        if at_end and not self._decided:
            self._take_look(run, len(LOOKS) - 1)
        decision = self._decision if at_end or self._decided else None
        fidelity = summary["fidelity"]
        if decision is not None and fidelity["verdict"] == "invalid":
            decision = Decision(Verdict.INVALID, "; ".join(fidelity["reasons"]))
        known = self._of_streams if decision is not None and decision.verdict is not Verdict.INVALID else {}
        figures = step_figures(summary, run.tally, self._scale, self.plan.rate_rps, decision, known)
        self.final = self._searching.taken(decision, figures)
        self._concluded = True
        summary["capacity"] = self._searching.figures(finished=self.final)

    def line(self) -> str | None:
        """What came of it."""
        steps = self._searching.steps
        return step_line(steps[-1], len(steps)) if steps else None

    def shown(self) -> dict[str, Any]:
        """The curve so far."""
        return {
            "capacity": self._searching.figures(finished=self.final), "scale": self._scale, "done": self._concluded,
        }  # fmt: skip

    @property
    def _decided(self) -> bool:
        return self._decision is not None and self._decision.verdict in (Verdict.HOLDS, Verdict.FAILS)

    def _until_s(self, look: int) -> float:
        return self._searching.sought.settle_s + LOOKS[look] * self._longest_s

    def _open(self, run: Run) -> int:
        if not self._blocks:
            return run.book.ledger.open
        return sum(blocks.open_before(self._border_s(self._look)) for blocks in self._blocks.values())

    def _border_s(self, look: int) -> float:
        """Requests due before that are looked at: at the last look all, though the last one is due just at the end."""
        block_s = next(iter(self._blocks.values())).block_s
        return self._until_s(look) + (block_s if look == len(LOOKS) - 1 else 0.0)

    def _take_look(self, run: Run, look: int) -> None:
        sought = self._searching.sought
        if not self._blocks:
            self._decision = Decision(Verdict.UNDECIDED, "there is no SLO")
            return
        until_s = self._until_s(look)
        # requests in flight grow on any server until the first ones have ended
        e2e_s = run.tally.total.latencies["e2e_latency"].quantile(0.9) or 0.0
        filled_s = max(sought.settle_s, min(e2e_s, until_s / 2))
        in_flight = run.tally.series.by_second("in_flight", math.ceil(filled_s), math.floor(until_s))
        found = {
            name: decide(
                blocks.seen(sought.settle_s, self._border_s(look), in_flight), sought.slo_share, look,
                ways=len(self._blocks),
            )
            for name, blocks in self._blocks.items()
        }  # fmt: skip
        self._of_streams = found if sought.streams else {}
        self._decision = weakest(found) if sought.streams else found[ALONE]


def _blocks(sought: Sought, block_s: float) -> dict[str, DueBlocks]:
    """What is counted of a step, by stream where each holds its own SLO; nothing without an SLO."""
    if sought.slo is None:
        return {}
    if not sought.streams or not isinstance(sought.slo, Slos):
        return {ALONE: DueBlocks(sought.slo, block_s)}
    return {name: DueBlocks(sought.slo, block_s, number) for number, name in enumerate(sought.streams)}
