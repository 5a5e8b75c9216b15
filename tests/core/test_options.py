"""What is said of options that nobody reads."""

from __future__ import annotations

import argparse
import re

import pytest

from fineserve_shapes import commandline
from fineserve_shapes.options import CAPACITY, PARAMETRIC, POISSON, PROMPTS, RUN, SERVER, TRACE, Option


class Parser(argparse.ArgumentParser):
    """Ends as Locust's does, with its line as the exception."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise SystemExit(message)


def complaint(*words: str) -> str:
    """What a replay says of a command line."""
    parser = Parser()
    commandline.add(parser, TRACE, environment=False)
    commandline.explain_unknown(parser)
    with pytest.raises(SystemExit) as error:
        parser.parse_args(words)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--request-rate", "5"], "--request-rate belongs to poisson.py and mix.py: this locustfile does not read it"),
        (
            ["--rate-scale=2"],
            "--rate-scale belongs to poisson.py, parametric.py and mix.py: this locustfile does not read it",
        ),
        (["--uhu", "--cv", "2"], "--cv belongs to poisson.py: this locustfile does not read it"),
        (["--time-scael", "2"], "unknown argument --time-scael: did you mean --time-scale?"),
        (["--time-scael=2"], "unknown argument --time-scael: did you mean --time-scale?"),
        (["--qqqqqq"], "unknown argument --qqqqqq"),
    ],
)
def test_an_unknown_option_is_one_line_that_names_its_home_or_the_nearest(words: list[str], line: str):
    assert complaint(*words) == line


def test_other_complaints_are_left_as_they_are():
    assert complaint("--timestamp-unit", "days").startswith("argument --timestamp-unit: invalid choice")


@pytest.mark.parametrize("words", [["--time-scal", "2"], ["--time-scal=2"], ["--timestamp-u", "s"]])
def test_no_abbreviation_is_taken(words: list[str]):
    assert complaint(*words).startswith(f"unknown argument {words[0].partition('=')[0]}: did you mean --time")


OPTIONS = [option for table in (TRACE, POISSON, PARAMETRIC, CAPACITY, SERVER, PROMPTS, RUN) for option in table]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_the_form_of_locust_shows_and_sends_an_option_as_it_is(option: Option):
    """It shows the help without argparse's formatting, and turns names into camel case and back, as here."""
    assert "%" not in option.described
    camel = re.sub("_([a-z0-9])", lambda found: found[1].upper(), option.dest)
    assert re.sub("([a-z0-9])([A-Z0-9])", r"\1_\2", camel).lower() == option.dest


@pytest.mark.parametrize(("flag", "words"), [("--retry-429", ["3"]), ("--disable-parametric-nb-lt10b", [])])
def test_an_old_spelling_means_the_option(flag: str, words: list[str]):
    parser = Parser()
    commandline.add(parser, OPTIONS, environment=False)
    (option,) = {option for option in OPTIONS if flag in option.aliases}
    assert parser.parse_args([flag, *words]) == parser.parse_args([option.flag, *words]) != parser.parse_args([])
