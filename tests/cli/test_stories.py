"""The commands around the locustfiles that come with the package."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from fineserve_shapes.cli import main
from fineserve_shapes.options import CAPACITY, MIX, PARAMETRIC, POISSON, PROMPTS, RUN, SERVER, TRACE, Option
from fineserve_shapes.shipped import STORIES, locustfile

READ: dict[str, tuple[Option, ...]] = {
    "replay": TRACE,
    "poisson": POISSON,
    "parametric": PARAMETRIC,
    "mix": MIX,
    "capacity": (*CAPACITY, *TRACE, *POISSON, *PARAMETRIC, *MIX),
}


@pytest.mark.parametrize("story", STORIES)
def test_every_story_is_printed_as_it_is(story: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["locustfile", story]) == 0
    assert capsys.readouterr().out == locustfile(story).read_text()


def test_run_hands_all_words_on_to_locust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the command itself could understand, too."""

    def execv(_program: str, words: list[str]) -> NoReturn:
        raise SystemExit(words[words.index("-f") :])

    monkeypatch.setattr(os, "execv", execv)
    words = ["--help", "-t", "5s", "--vers", "CompletionUser"]
    with pytest.raises(SystemExit) as started:
        main(["run", "poisson", *words])
    assert started.value.code == ["-f", str(locustfile("poisson")), *words]


@pytest.mark.parametrize("story", STORIES)
def test_the_list_has_what_a_locustfile_reads_and_nothing_else(story: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With help and default, wherever lines are broken."""
    assert main(["options", story]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0].rstrip(",") for line in lines if line.startswith("  --")}
    read = (*READ[story], *SERVER, *PROMPTS, *RUN)
    assert listed == {option.flag for option in read}
    assert max(map(len, lines)) <= 120
    words = " ".join(" ".join(lines).split())
    assert all(option.described in words for option in read)


def test_the_list_of_all_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {option.flag}" in out for table in READ.values() for option in table)


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["simulate", "--por", "1"], "--port"),
        (["trace", "inspect", "a.csv", "--time-scal", "2"], "--time-scale"),
        (["report", "--ou", "a.html", "a.jsonl"], "--out"),
    ],
)
def test_no_command_takes_an_abbreviation(words: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "unknown argument --" in error
    assert f"did you mean {near}?" in error
    assert error.count("\n") == 1


def test_a_locustfile_that_there_is_not_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["locustfile", "replai"]) == 2
    assert "choose from 'replay', 'poisson', 'parametric'" in capsys.readouterr().err
