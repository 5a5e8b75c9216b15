"""Step: a run of a test that is more than its plan: what it needs, when it has seen enough, and what it adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fineserve_shapes.engine.run import Run
from fineserve_shapes.workload.plan import Plan


class Step:
    """What `PlanShape.runs` may yield in place of a plan: override what is to be another way.

    plan: what is sent. warmup_s: in place of --warmup-seconds.

    follows: its summary and report take the place of those of the run before, since all that these said is in them.
    probe: it finds out what the server can do: failed requests are no failure of the test, and what is not sent any more
    when it has seen enough is not missing.
    final: whether thresholds, and the exit code, go by its summary; it is asked after `conclude`.
    extra: entries that `conclude` will put into the summary, with nothing in them: thresholds may name them.
    """

    follows = False
    probe = False
    final = True
    extra: Mapping[str, Any] = {}

    def __init__(self, plan: Plan, warmup_s: float | None = None) -> None:
        self.plan = plan
        self.warmup_s = warmup_s

    def begin(self, run: Run) -> None:
        """The run is about to begin: `run.tally.followers` may be added to."""

    def enough(self, run: Run) -> bool:  # noqa: ARG002
        """Asked about every second while the run goes on: whether it can end now. What is in flight is drained then."""
        return False

    def conclude(self, run: Run, summary: dict[str, Any]) -> None:
        """The run has ended: the summary may be added to before it is written."""

    def line(self) -> str | None:
        """What is said of it on the console where another run follows; None: its whole summary."""
        return None

    def shown(self) -> dict[str, Any]:
        """What the LLM tab is told of it beside the run."""
        return {}
