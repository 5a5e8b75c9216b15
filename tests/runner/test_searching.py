"""A search by runs, without any: which steps are taken, when one has seen enough, and what is said in the end."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure import records
from fineserve_shapes.measure.capacity import Search
from fineserve_shapes.measure.fidelity import Limits
from fineserve_shapes.measure.measurements import GAPS, SENT, Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.sweep import Sweep
from fineserve_shapes.options import slo as slo_of
from fineserve_shapes.planning.stretch import Stretch
from fineserve_shapes.runner.conclusion import About, summary_of
from fineserve_shapes.runner.searching import Searching, SearchStep, Sought
from fineserve_shapes.runner.searchoptions import SearchOptions
from fineserve_shapes.shapes import CapacityShape, PlanShape, ReplayShape
from fineserve_shapes.values import Values
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.plan import Plan

SLO = Slo.parse("ttft=100ms")
SETTLE_S, STEP_S, RATE_RPS = 2.0, 40.0, 20.0
JUDGED = {"asked": {"rate_rps": 1.0}}
SOUGHT = Sought(SLO, 0.9, SETTLE_S, "even", early=True)


def even() -> Plan:
    """Twenty requests a second, for ever."""

    def source() -> Iterator[Block]:
        start = 0
        while True:
            due_s = (start + np.arange(1_000)) / RATE_RPS
            ones = np.ones(1_000, dtype=np.int64)
            yield Block(ones, due_s, ones, ones, 0 * ones)
            start += 1_000

    return Plan(source, identity={}, endless=True)


def searching(search: Search | None = None, sought: Sought = SOUGHT) -> Searching:
    """A search in the even workload."""
    return Searching(sought, search or Search(0.9), even(), Stretch(SETTLE_S, None, STEP_S, 1).of)


class Clock:
    """A run that is told how late it is, and whose requests end as they are told to."""

    def __init__(
        self,
        step: SearchStep,
        ttft_s: Callable[[np.ndarray], np.ndarray],
        open_s: float = 0.0,
        settings: Settings = Settings(slo=SLO, warmup_s=SETTLE_S),  # noqa: B008 - it is frozen
    ) -> None:
        self.run = Run(step.plan, None, settings, local=True)
        self.step = step
        self._ttft_s, self._open_s = ttft_s, open_s
        self._told_s = -1.0
        self.run.start_s = 0.0
        step.begin(self.run)
        self._due_s = np.concatenate([piece.due_s for piece in step.plan])
        self._streams = np.concatenate([piece.stream for piece in step.plan])
        self.run.tally.plan(self._streams, self._due_s)
        self.run.book.ledgers.plan(self._streams)

    def at(self, now_s: float, monkeypatch: pytest.MonkeyPatch) -> bool:
        """It is that late: what was due some time ago has ended. Whether the step has seen enough."""
        monkeypatch.setattr("fineserve_shapes.engine.run.time.perf_counter", lambda: now_s)
        ending = (self._due_s > self._told_s) & (self._due_s <= now_s - self._open_s)
        if ending.any():
            self._told_s = float(self._due_s[ending][-1])
            self._end(self._due_s[ending], self._streams[ending])
        return self.step.enough(self.run)

    def _end(self, due_s: np.ndarray, streams: np.ndarray) -> None:
        rows = np.zeros(len(due_s), dtype=records.RECORD)
        rows["stream"] = streams
        rows["due_s"] = rows["sent_s"] = due_s
        rows["first_token_s"] = rows["last_token_s"] = rows["end_s"] = due_s + self._ttft_s(due_s)
        sent = np.zeros(len(due_s), dtype=SENT)
        sent["stream"] = streams
        sent["sent_s"] = sent["due_s"] = due_s
        self.run.tally.add(Measurements(rows, sent, {}, np.empty(0, dtype=GAPS), []))
        self.run.book.ledger.end("ok", len(due_s))
        for stream in streams.tolist():
            self.run.book.ledgers.end_of_stream("ok", stream)

    def to_its_end(self, monkeypatch: pytest.MonkeyPatch, last_s: float = 200.0) -> float:
        """Second by second, until the step has seen enough, or the last second. Returns when that was."""
        for now_s in np.arange(0.0, last_s, 0.5).tolist():
            if self.at(now_s, monkeypatch):
                break
        return now_s

    def concluded(self, end_s: float) -> dict[str, Any]:
        """What the step has made of the summary."""
        self.run.end_s = end_s
        self.run.tally.delivery.finish(end_s)
        summary = summary_of(self.run, self.step.plan, Values(Namespace()), About("capacity", None, simulator=True))
        self.step.conclude(self.run, summary)
        return summary


def fast(due_s: np.ndarray) -> np.ndarray:
    return np.full(len(due_s), 0.01)


def slow(due_s: np.ndarray) -> np.ndarray:
    return np.full(len(due_s), 0.5)


def step_of(search: Searching) -> SearchStep:
    step = search._next
    assert step is not None
    return step


@pytest.mark.parametrize(("answers", "decision"), [(fast, "holds"), (slow, "fails")])
def test_a_clear_step_ends_at_the_first_look(monkeypatch: pytest.MonkeyPatch, answers: Callable, decision: str):
    """A quarter of its time after it has settled, and not at any time before."""
    search = searching()
    clock = Clock(step_of(search), answers)
    ended_s = clock.to_its_end(monkeypatch)
    assert SETTLE_S + STEP_S / 4 <= ended_s <= SETTLE_S + STEP_S / 4 + 1.0
    step = clock.concluded(ended_s)["capacity"]["steps"][0]
    assert (step["decision"], step["scale"]) == (decision, 1.0)
    assert step_of(search).plan.rate_rps == pytest.approx(RATE_RPS * (2 if decision == "holds" else 0.5), rel=0.02)


def test_a_look_waits_for_the_ends_of_requests_but_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    """Answers that come seven seconds late, and some that never come within the step."""
    clock = Clock(step_of(searching()), fast, open_s=7.0)
    ended_s = clock.to_its_end(monkeypatch)
    assert ended_s == pytest.approx(SETTLE_S + STEP_S / 4 + 7.0, abs=1.0)
    clock = Clock(step_of(searching()), slow, open_s=30.0)
    ended_s = clock.to_its_end(monkeypatch)
    looks_s = [SETTLE_S + share * STEP_S + STEP_S / 4 for share in (0.25, 0.5, 0.75, 1.0)]
    assert min(abs(ended_s - look_s) for look_s in looks_s) <= 1.0


def test_a_step_that_nothing_decides_ends_undecided(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(step_of(searching()), lambda due_s: np.where((due_s * RATE_RPS).round() % 10 < 1, 0.5, 0.01))
    ended_s = clock.to_its_end(monkeypatch)
    assert ended_s == pytest.approx(SETTLE_S + STEP_S, abs=1.5)
    assert clock.concluded(ended_s)["capacity"]["steps"][0]["decision"] == "undecided"


def test_an_interrupted_step_decides_nothing_and_ends_no_search(monkeypatch: pytest.MonkeyPatch):
    search = searching()
    clock = Clock(step_of(search), fast)
    clock.at(5.0, monkeypatch)
    capacity = clock.concluded(5.0)["capacity"]
    assert (capacity["steps"][0]["decision"], capacity["finished"], capacity["limited_by"]) == (None, False, None)
    assert not clock.step.final


def test_an_invalid_step_is_repeated_once_and_then_the_client_is_the_limit(monkeypatch: pytest.MonkeyPatch):
    search = searching()
    for number in (1, 2):
        clock = Clock(step_of(search), fast)
        ended_s = clock.to_its_end(monkeypatch)
        monkeypatch.setattr(
            "fineserve_shapes.engine.run.judge", lambda *_, **__: JUDGED | {"verdict": "invalid", "reasons": ["late"]}
        )
        capacity = clock.concluded(ended_s)["capacity"]
        assert [step["decision"] for step in capacity["steps"]] == ["invalid"] * number
    assert (capacity["limited_by"], capacity["finished"], search._next) == ("client", True, None)
    assert "late" in capacity["steps"][0]["why"]


def test_each_step_has_numbers_and_so_prompts_of_its_own(monkeypatch: pytest.MonkeyPatch):
    search = searching()
    numbers: list[int] = []
    for _ in range(3):
        step = step_of(search)
        numbers += np.concatenate([block.index for block in step.plan]).tolist()
        clock = Clock(step, fast)
        clock.concluded(clock.to_its_end(monkeypatch))
    assert numbers == list(range(len(numbers)))


def test_a_sweep_takes_no_early_end(monkeypatch: pytest.MonkeyPatch):
    sought = Sought(SLO, 0.9, SETTLE_S, "even", early=False)
    search = searching(Sweep(0.9, [1.0, 2.0]), sought)
    for scale in (1.0, 2.0):
        clock = Clock(step_of(search), fast)
        ended_s = clock.to_its_end(monkeypatch)
        assert ended_s == pytest.approx(SETTLE_S + STEP_S, abs=1.5)
        capacity = clock.concluded(ended_s)["capacity"]
        assert (capacity["steps"][-1]["scale"], capacity["low"]) == (scale, scale)
    assert (capacity["finished"], capacity["high"], capacity["limited_by"]) == (True, None, "range")


def test_a_trace_that_is_too_short_for_a_higher_scale_ends_the_search(monkeypatch: pytest.MonkeyPatch):
    """What has been found until then is the answer."""
    trace = even().limited(1_500)
    search = Searching(SOUGHT, Search(0.9), trace, Stretch(SETTLE_S, None, STEP_S, 1_450).of)
    clock = Clock(step_of(search), fast)
    capacity = clock.concluded(clock.to_its_end(monkeypatch))["capacity"]
    assert (capacity["low"], capacity["high"], capacity["limited_by"]) == (1.0, None, "range")
    assert capacity["finished"]


CHAT, CODE = Slo.parse("ttft=100ms"), Slo.parse("ttft=20ms")
MIX = Slos((CHAT, CODE))
NAMES = Names(("chat", "code"), mixed=True)
EACH = replace(SOUGHT, slo=MIX, workload="mix", streams=NAMES.names)


def settings_of(slos: Slos) -> Settings:
    """Of a run of the mix."""
    return Settings(slo=slos, warmup_s=SETTLE_S, names=NAMES, limits_of_streams=(Limits(), Limits()))


def mix(every: int = 2) -> Plan:
    """The even workload, in which one of so many requests is for code."""

    def source() -> Iterator[Block]:
        for block in even():
            yield replace(
                block, stream=((block.due_s * RATE_RPS).round().astype(np.int64) % every == 0).astype(np.int64)
            )

    return Plan(source, identity={}, endless=True)


@pytest.mark.parametrize(
    ("ttft_s", "decision", "stream"), [(0.01, "holds", "chat"), (0.05, "fails", "code"), (0.5, "fails", "chat")]
)
def test_each_stream_of_a_mix_holds_its_own_slo_and_the_weakest_decides(
    monkeypatch: pytest.MonkeyPatch, ttft_s: float, decision: str, stream: str
):
    """At 50 ms all that misses is one stream of two: half of the requests are good, and the step fails by that stream.
    Of two that miss alike the first is named."""
    search = Searching(EACH, Search(0.9), mix(), Stretch(SETTLE_S, None, STEP_S, 1).of)
    settings = settings_of(MIX)
    clock = Clock(step_of(search), lambda due_s: np.full(len(due_s), ttft_s), settings=settings)
    capacity = clock.concluded(clock.to_its_end(monkeypatch))["capacity"]
    (step,) = capacity["steps"]
    assert (step["decision"], step["stream"]) == (decision, stream)
    assert step["why"].startswith(f"{stream}: ")
    assert list(step["streams"]) == ["chat", "code"]
    assert step["streams"][stream]["decision"] == decision
    assert capacity["limiting_stream"] == (stream if decision == "fails" else None)
    assert step["slo_share"] == step["streams"][stream]["slo_share"]


def test_streams_of_one_slo_hold_it_together(monkeypatch: pytest.MonkeyPatch):
    """Where one stream of two is slow half of all requests are; which one does not matter."""
    sought = replace(SOUGHT, slo=Slos((CHAT, CHAT)), slo_share=0.4)
    search = Searching(sought, Search(0.4), mix(), Stretch(SETTLE_S, None, STEP_S, 1).of)
    settings = settings_of(Slos((CHAT, CHAT)))
    clock = Clock(step_of(search), lambda due_s: np.where((due_s * RATE_RPS).round() % 2, 0.01, 0.5), settings=settings)
    capacity = clock.concluded(clock.to_its_end(monkeypatch))["capacity"]
    (step,) = capacity["steps"]
    assert (step["decision"], step["stream"], step["streams"], capacity["limiting_stream"]) == ("holds", None, {}, None)


def test_a_stream_with_too_few_requests_to_show_its_share_is_named_before_the_first_step():
    with pytest.raises(
        InputError, match=r"stream 'code' has 21 requests in a step, .* 59 at least.* --step-requests \d+"
    ):
        Searching(EACH, Search(0.9), mix(every=40), Stretch(SETTLE_S, None, STEP_S, 1).of)


def test_streams_hold_by_themselves_where_any_has_an_slo_of_its_own(tmp_path: Path):
    """By the mix file; with one --slo for all they hold it together."""
    file = tmp_path / "mix.toml"
    for own, expected in (('slo = "ttft=1s"\n', ("a", "b")), ("", ())):
        file.write_text(
            f'[streams.a]\nkind = "poisson"\nrequest_rate = 5\n{own}[streams.b]\nkind = "poisson"\nrequest_rate = 5\n'
        )
        values = Values(Namespace(workload="mix", mix=str(file), slo="ttft=2s", slo_share="0.9", settle="2", model="m"))
        step = next(CapacityShape().runs(values))
        assert isinstance(step, SearchStep)
        assert step._searching.sought.streams == expected


def read(**options: str) -> SearchOptions:
    values = Values(Namespace(**options))
    return SearchOptions.read(values, slo_of(values))


def test_a_step_has_fifty_requests_for_each_that_may_miss_by_default():
    assert (read(slo="ttft=1s").step_requests, read(slo="ttft=1s").slo_share) == (5_000, 0.99)
    assert read(slo="ttft=1s", slo_share="90%").step_requests == 500
    assert read(slo="ttft=1s", step_time="30").step_requests is None


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({}, "--slo"),
        ({"slo": "ttft=1s", "scales": "1", "rates": "1"}, "--rates"),
        ({"slo": "ttft=1s", "warmup_seconds": "3"}, "--settle"),
        ({"slo": "ttft=1s", "rates": "0"}, "--rates"),
        ({"slo": "ttft=1s", "slo_share": "1"}, "--slo-share"),
        ({"slo": "ttft=1s", "fail_if_slo_missed": "1"}, "--threshold 'capacity.rate_rps>=20'"),
        ({"scales": "1,x"}, "--scales must be numbers above 0 with commas between them"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, str], flag: str):
    with pytest.raises(InputError, match=flag):
        read(**options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"step_requests": "100"}, "a step of 100 requests can show nothing: at least 610"),
        ({"start_scale": "100"}, "between its lowest and its highest scale"),
        ({"max_steps": "0"}, "--max-steps"),
        ({"compare_burstiness": "1", "scales": "1", "slo": ""}, "--slo ttft=500ms"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_its_first_step(options: dict[str, str], reason: str):
    with pytest.raises(InputError, match=reason):
        next(WithOwn().runs(Values(Namespace(**{"slo": "ttft=1s"} | options))))


class Own(PlanShape):
    """A workload of somebody's own."""

    abstract = True
    mode = "own"

    def plan(self, values: Values) -> Plan:
        return even()


class WithOwn(CapacityShape):
    """A search in that or in a replay."""

    abstract = True
    workloads = (Own, ReplayShape)


def test_a_workload_of_ones_own_can_be_searched_with():
    assert WithOwn.options()[0].choices == ("own", "replay")
    assert WithOwn.options()[0].default == "own"
    step = next(WithOwn().runs(Values(Namespace(slo="ttft=1s", slo_share="0.9", settle="2"))))
    assert step.plan.rate_rps == pytest.approx(RATE_RPS, rel=0.01)
    with pytest.raises(InputError, match="--workload is one of own, replay, got 'mix'"):
        WithOwn().plan(Values(Namespace(workload="mix")))
