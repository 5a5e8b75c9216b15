"""Runs that are steps: they end when they have seen enough, and their files and exit codes are those of the test."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEnvironment, FakeLocalRunner

from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.runner.conclusion import About
from fineserve_shapes.runner.conductor import Conductor
from fineserve_shapes.runner.exits import EXIT_FAILED, EXIT_INVALID, EXIT_MISSED
from fineserve_shapes.runner.planned import Planned
from fineserve_shapes.runner.step import Step
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.plan import Plan


def planned(conductor: Conductor, step: Step, asked: Values) -> Planned:
    return conductor.planned(step, (Stream(values=asked),), asked)


class FakeMaster:
    """Begins a run and drains it; nothing is sent."""

    connected = ("local",)

    def __init__(self) -> None:
        self.run: Run | None = None

    def begin(self, run: Run) -> None:
        self.run = run
        run.start_s = 0.0

    def drain(self, timeout_s: float) -> None:
        run = self.run
        assert run is not None
        run.end_s = 1.0
        run.book.stop()
        run.account_for_the_rest()
        self.run = None

    def dismiss(self, run: Run) -> None: ...


class FakeObservers:
    """Remembers where the report was to go."""

    report_file: Path | None = None

    def prepare(self, settings: Settings, report_file: Path | None) -> Settings:
        self.report_file = report_file
        return replace(settings)

    def begin(self, *arguments: Any) -> None: ...

    def finish(self, summary: Any) -> None: ...

    def report(self, run: Run, summary: Any) -> None: ...


class Counted(Step):
    """Has seen enough when it is told so, and says in the summary how often it was asked."""

    def __init__(self, *, follows: bool = False, final: bool = True) -> None:
        ones = np.ones(4, dtype=np.int64)
        block = Block(np.arange(4), 0.1 * np.arange(4), ones, ones, 0 * ones)
        super().__init__(Plan(lambda: [block], identity={}, sized=True), warmup_s=0.2)
        self.follows, self.final = follows, final
        self.extra = {"counted": {"asked": None}}
        self.asked = 0

    def enough(self, run: Run) -> bool:
        self.asked += 1
        if self.asked > 2:
            raise ZeroDivisionError("too often")
        return self.asked == 2

    def conclude(self, run: Run, summary: dict[str, Any]) -> None:
        summary["counted"] = {"asked": self.asked}


@pytest.fixture
def conductor() -> Conductor:
    environment = FakeEnvironment(runner=FakeLocalRunner(), csv_prefix=None, json=False, run_time=None)
    about = About("counted", "http://h", simulator=False)
    refuse: Any = None
    return Conductor(environment, FakeMaster(), FakeObservers(), lambda: about, refuse, shows_progress=False)


def values(folder: Path, **options: str) -> Values:
    return Values(Namespace(output_file=str(folder / "s.json"), **options))


def through(conductor: Conductor, step: Step, asked: Values) -> dict[str, Any]:
    """The step's run from its plan to its summary."""
    conductor.begin(planned(conductor, step, asked))
    conductor.finish()
    assert conductor.summary is not None
    return conductor.summary


def test_a_run_can_end_when_its_step_has_seen_enough(conductor: Conductor, tmp_path: Path):
    """It is asked while the run goes on, and its words stand in the summary before that is written."""
    assert not conductor.enough
    step = Counted()
    conductor.begin(planned(conductor, step, values(tmp_path)))
    assert [conductor.enough, conductor.enough] == [False, True]
    conductor.finish()
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["counted"] == {"asked": 2}
    assert summary["warmup"]["seconds"] == 0.2
    assert not conductor.enough


def test_a_step_that_fails_ends_its_run(conductor: Conductor, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    step = Counted()
    step.asked = 2
    conductor.begin(planned(conductor, step, values(tmp_path)))
    assert conductor.enough
    assert conductor._environment.process_exit_code == EXIT_FAILED
    assert "Counted.enough failed" in caplog.text
    conductor.finish()


def test_a_run_in_which_no_request_was_due_is_not_valid(
    conductor: Conductor, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """It says so, and is none that --fail-if-invalid lets pass."""
    empty = Step(Plan(list, identity={}, sized=True))
    assert through(conductor, empty, values(tmp_path))["fidelity"]["verdict"] is None
    assert "no request was due: nothing was measured" in caplog.text
    assert conductor._environment.process_exit_code is None
    through(conductor, empty, Values(Namespace(fail_if_invalid=True)))
    assert conductor._environment.process_exit_code == EXIT_INVALID


def test_a_step_that_follows_takes_the_place_of_the_one_before(conductor: Conductor, tmp_path: Path):
    """One that does not leaves its summary as it is."""
    first = through(conductor, Counted(), values(tmp_path))
    second = through(conductor, Counted(follows=True), values(tmp_path))
    third = through(conductor, Counted(), values(tmp_path))
    assert json.loads((tmp_path / "s.json").read_text())["run"] == second["run"] != first["run"]
    assert json.loads((tmp_path / f"s-{third['run']}.json").read_text())["run"] == third["run"]


@pytest.mark.parametrize(("final", "code"), [(True, EXIT_MISSED), (False, None)])
def test_thresholds_are_for_the_final_step_and_know_what_it_adds(
    conductor: Conductor, tmp_path: Path, final: bool, code: int | None
):
    summary = through(conductor, Counted(final=final), values(tmp_path, threshold="counted.asked>=1"))
    assert len(summary["checks"]) == final
    assert conductor._environment.process_exit_code == code


def test_a_line_of_a_step_stands_for_its_summary(
    conductor: Conductor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    step = Counted()
    through(conductor, step, values(tmp_path))
    conductor.print_step()
    assert "ledger" in capsys.readouterr().out
    step.line = lambda: "it counted"  # type: ignore[method-assign]
    conductor.print_step()
    assert capsys.readouterr().out == "it counted\n"
