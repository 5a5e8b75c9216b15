"""Shapes: which plan a run follows, for Locust.

A shape class in a locustfile is all the wiring there is: it adds its options to the command line and the web form, and
binds the process to the engine. Its users stay as they are, one inert instance a process; the load comes from the plan.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from locust import LoadTestShape, events

from fineserve_shapes import commandline, options
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.slo import Slos
from fineserve_shapes.runner import mastersession as session
from fineserve_shapes.runner import startform
from fineserve_shapes.runner.step import Step
from fineserve_shapes.shipped import DATASETS, SAMPLE_TRACE
from fineserve_shapes.streams import Stream, names_of
from fineserve_shapes.users import ArrivalUser
from fineserve_shapes.values import Values
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.plan import Plan

if TYPE_CHECKING:
    from fineserve_shapes.planning.madeplan import MadePlan
    from fineserve_shapes.planning.mixfile import Mix
    from fineserve_shapes.planning.stretch import Stretch
    from fineserve_shapes.runner.backgroundsurvey import BackgroundSurvey
    from fineserve_shapes.runner.comparing import Comparing
    from fineserve_shapes.runner.searchoptions import SearchOptions

__all__ = [
    "Block", "CapacityShape", "MixShape", "ParametricShape", "Plan", "PlanShape", "PoissonShape", "ReplayShape", "Step",
    "Stream",
    "SyntheticShape", "Values",
]  # fmt: skip

# What makes plans is imported where a plan is made: it takes half a second, and workers need none of it.

logger = logging.getLogger(__name__)

_FOR_EVER_S = "1e12"


class PlanShape(LoadTestShape):
    """A shape that follows a plan: override `plan`.

    mode: its name in the results. option_list: the options that it reads.

        class Volleys(PlanShape):
            mode = "volleys"

            def plan(self, values):
                return Plan(blocks, identity={}, endless=True)  # blocks() gives a Block for each volley
    """

    abstract = True
    use_common_options: ClassVar[bool] = True  # the run time is read; Locust would say that it is ignored
    mode: ClassVar[str]
    option_list: ClassVar[tuple[options.Option, ...]] = ()
    _surveys: Sequence[BackgroundSurvey] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.abstract:
            events.init_command_line_parser.add_listener(cls._add_options)
            events.init.add_listener(cls._bind)

    @classmethod
    def options(cls) -> tuple[options.Option, ...]:
        """The options that the class reads."""
        return cls.option_list

    def plan(self, values: Values) -> Plan:
        """The plan of a run with these options. Raises InputError where there is none."""
        raise NotImplementedError

    def streams_of(self, values: Values) -> tuple[Stream, ...]:
        """The streams of a run with these options, in the order of their numbers: by default one, called as the mode."""
        return (Stream(self.mode, values=values),)

    def runs(self, values: Values) -> Generator[Plan | Step, dict[str, Any], None]:
        """The runs of a test, one after the other: by default one, with `plan`.

        Each is a run of its own, with its ledger, verdict and files. What comes back for a plan is the summary of its run
        (see `measure.summary.summarise`), so that a search can go by it:

            def runs(self, values):
                for rate_rps in (1.0, 2.0, 4.0):
                    summary = yield self.plan(values).faster(rate_rps)
                    if summary["fidelity"]["verdict"] != "valid":
                        return

        A run that ends by itself when it has seen enough, or adds to its summary, is a `Step` in place of a plan.
        """
        yield self.plan(values)

    def _taken(self, made: MadePlan) -> Plan:
        """The plan; what is to be said of it is logged, and what is still to be counted is counted from now on."""
        from fineserve_shapes.runner.backgroundsurvey import BackgroundSurvey

        for line in made.lines:
            logger.info("%s", line)
        for warning in made.warnings:
            logger.warning("%s", warning)
        for survey in self._surveys:
            survey.stop()
        self._surveys = [BackgroundSurvey(one.path, one.trace) for one in made.unsurveyed]
        return made.plan

    def tick(self) -> tuple[int, float] | None:
        """One inert user per process that sends; None ends the run."""
        driving = type(self).driving
        if driving is None or driving.over:
            return None
        workers = driving.workers
        return (workers, max(workers, 1.0))

    driving: ClassVar[session.MasterSession | None] = None

    @classmethod
    def _add_options(cls, parser: Any, **_: Any) -> None:
        users = [option for user_class in _subclasses(ArrivalUser) for option in user_class.options()]
        startform.add_options(parser, (*cls.options(), *users, *options.RUN))
        commandline.listen_to_this_machine(parser)
        commandline.explain_unknown(parser)

    @classmethod
    def _bind(cls, environment: Any, **_: Any) -> None:
        shape = environment.shape_class
        if isinstance(shape, cls):
            cls.driving = session.bind(environment, shape)
        elif shape is None:  # a worker knows the class alone
            session.bind(environment, cls())


class ReplayShape(PlanShape):
    """Replays a recorded trace: each request at its recorded time, with its recorded lengths.

    trace: the trace to replay where --request-trace-csv names none.

        class Replay(ReplayShape):
            trace = "my_trace.csv"
    """

    abstract = True
    mode = "replay"
    option_list = options.TRACE
    trace: ClassVar[str | Path | None] = None

    def plan(self, values: Values) -> Plan:
        """The trace, cut, cleaned and scaled by the options."""
        from fineserve_shapes.planning.replaying import replay

        return self._taken(replay(values, self.trace))


class SyntheticShape(PlanShape):
    """A shape that makes its workload from parameters: what Poisson and parametric ones have in common.

    datasets: a directory with the folders `replay` (sample traces, for lengths) and `Parametric`; by default the samples
        that come with the package.
    num_prompts: how many requests where neither --run-time nor --num-prompts says when to end.
    """

    abstract = True
    datasets: ClassVar[Path | None] = DATASETS
    num_prompts: ClassVar[int | None] = None

    def _ended(self, made: MadePlan, values: Values) -> Plan:
        from fineserve_shapes.planning.synthesis import ended

        return ended(self._taken(made), values, self.num_prompts)


class PoissonShape(SyntheticShape):
    """Independent arrivals at one rate; by options also burstier or more even ones, and rates that change.

    request_rate: requests per second where --request-rate says none.

        class Poisson(PoissonShape):
            request_rate = 5.0
    """

    abstract = True
    mode = "poisson"
    option_list = options.POISSON
    request_rate: ClassVar[float] = 1.0

    def plan(self, values: Values) -> Plan:
        """Arrivals by the options; lengths recorded, described or of the prompt file."""
        from fineserve_shapes.planning.synthesis import poisson

        return self._ended(poisson(values, self.request_rate, self.datasets), values)


class ParametricShape(SyntheticShape):
    """Gamma gaps over windows, in bursts where the class has them, for as long as the run lasts.

    class Parametric(ParametricShape):
        datasets = Path("datasets")
    """

    abstract = True
    mode = "parametric"
    option_list = options.PARAMETRIC

    def plan(self, values: Values) -> Plan:
        """Windows, bursts and lengths by the options."""
        from fineserve_shapes.planning.synthesis import parametric

        return self._ended(parametric(values, self.datasets), values)


class MixShape(PlanShape):
    """Several streams at once, each with its own workload, server, model and SLO.

    mix: the mix file where --mix names none. streams: the streams in its place, for a mix that is written in Python.

        class Mix(MixShape):
            streams = (
                Stream("chat", own={"kind": "poisson", "request_rate": "3", "model": "small", "host": "http://a:8000"}),
                Stream("agents", own={"kind": "replay", "request_trace_csv": "agents.csv", "host": "http://b:8000"}),
            )
    """

    abstract = True
    mode = "mix"
    option_list = options.MIX
    mix: ClassVar[str | Path | None] = None
    streams: ClassVar[Sequence[Stream]] = ()
    _read: tuple[Values, Mix] | None = None

    def streams_of(self, values: Values) -> tuple[Stream, ...]:
        """Those of --mix, of a trace that is split, or of the class."""
        return self._mix(values).streams

    def plan(self, values: Values) -> Plan:
        """The plans of all streams as one, scaled and cut by the options."""
        from fineserve_shapes.planning.mixing import mixed

        return self._taken(mixed(self._mix(values), values))

    def _mix(self, values: Values) -> Mix:
        """The mix that these options ask for, read once for each start: a trace that is split is read through."""
        if self._read is None or self._read[0] is not values:
            self._read = values, self._read_mix(values)
        return self._read[1]

    def _read_mix(self, values: Values) -> Mix:
        from fineserve_shapes.planning.mixfile import checked_mix, read_mix

        path, column, trace = values.path("--mix"), values.text("--split-by"), values.text("--request-trace-csv")
        if column is not None or trace is not None:
            if path is not None or column is None or trace is None:
                raise InputError(
                    "give a mix (--mix), or a trace and the column to split it by (--request-trace-csv and --split-by)"
                )
            own = {"kind": "replay", "request_trace_csv": trace, "split_by": column}
            return checked_mix([Stream("trace", own=own)], values)
        if path is None and self.streams:
            return checked_mix(self.streams, values)
        if path is None and self.mix is None:
            raise InputError("no mix of streams (--mix)")
        return read_mix(path or Path(self.mix or ""), values)


class CapacityShape(PlanShape):
    """Searches the highest load that keeps to an SLO: the same workload, faster or slower in each run.

    workloads: the shapes whose plans can be searched with, known to --workload by their `mode`.

        class Capacity(CapacityShape):
            workloads = (*CapacityShape.workloads, Volleys)  # a shape of one's own, with `abstract = True`
    """

    abstract = True
    mode = "capacity"
    workloads: ClassVar[tuple[type[PlanShape], ...]] = (ReplayShape, PoissonShape, ParametricShape, MixShape)

    @classmethod
    def options(cls) -> tuple[options.Option, ...]:
        """Those of the search, and all of the workloads'."""
        modes = tuple(shape.mode for shape in cls.workloads)
        chosen, *others = options.CAPACITY
        return (
            replace(chosen, choices=modes, default=chosen.default if chosen.default in modes else modes[0]), *others,
            *(option for shape in cls.workloads for option in shape.options()),
        )  # fmt: skip

    def plan(self, values: Values) -> Plan:
        """The workload at scale 1; it has no end where it can go on for ever: each step has its own."""
        return self._workload(values).plan(values.over({"run_time": _FOR_EVER_S}))

    def streams_of(self, values: Values) -> tuple[Stream, ...]:
        """The workload's."""
        return self._workload(values).streams_of(values)

    def runs(self, values: Values) -> Generator[Plan | Step, dict[str, Any], None]:
        """The steps."""
        from fineserve_shapes.planning.stretch import Stretch
        from fineserve_shapes.runner.searchoptions import SearchOptions, searching

        streams = self.streams_of(values)
        slo = options.slo_of(streams)
        if isinstance(slo, Slos) and None in slo.by_stream:
            raise InputError("in a search each stream of a mix has an SLO: slo in its table, or --slo for all")
        own = any("slo" in stream.own for stream in streams)
        asked = SearchOptions.read(values, slo, names_of(streams).names if own else ())
        stretch = Stretch(asked.settle_s, asked.step_requests, asked.step_time_s, asked.fewest)
        if values.switch("--compare-burstiness"):
            yield from self._comparing(asked, stretch, values).runs()
        else:
            yield from searching(asked, self.plan(values), stretch.of).runs()

    def _comparing(self, asked: SearchOptions, stretch: Stretch, values: Values) -> Comparing:
        """A run for each kind of arrivals, with the workload's requests, at the rate of --start-scale."""
        from fineserve_shapes.planning.burstiness import kinds
        from fineserve_shapes.runner.comparing import Comparing

        if isinstance(asked.slo, Slos):
            raise InputError(
                "burstiness is compared for a workload of one stream, not for a mix (--compare-burstiness)"
            )
        if asked.slo is None:
            raise InputError("what burstiness costs is told in goodput: say what is good (--slo ttft=500ms,tpot=50ms)")
        plan, _ = stretch.of(self.plan(values).faster(asked.start_scale))
        return Comparing(kinds(plan, values, DATASETS, SAMPLE_TRACE), asked.slo, asked.settle_s)

    def _workload(self, values: Values) -> PlanShape:
        name = values.text("--workload") or self.workloads[0].mode
        for shape in self.workloads:
            if shape.mode == name:
                return shape()
        raise InputError(f"--workload is one of {', '.join(shape.mode for shape in self.workloads)}, got {name!r}")


def _subclasses(base: type) -> list[Any]:
    """All concrete classes below a base."""
    below: list[Any] = []
    child: Any  # what is looked for are attributes of Locust's classes
    for child in base.__subclasses__():
        below += [child, *_subclasses(child)]
    return [found for found in below if not getattr(found, "abstract", True)]
