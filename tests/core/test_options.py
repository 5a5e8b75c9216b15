"""What is said of options that nobody reads."""

from __future__ import annotations

import argparse

import pytest

from fineserve_shapes import options
from fineserve_shapes.options import TRACE


class Parser(argparse.ArgumentParser):
    """Ends as Locust's does, with its line as the exception."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise SystemExit(message)


def complaint(*words: str) -> str:
    """What a replay says of a command line."""
    parser = Parser()
    options.add(parser, TRACE, environment=False)
    options.explain_unknown(parser)
    with pytest.raises(SystemExit) as error:
        parser.parse_args(words)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--request-rate", "5"], "--request-rate belongs to poisson.py: this locustfile does not read it"),
        (["--rate-scale=2"], "--rate-scale belongs to poisson.py and parametric.py: this locustfile does not read it"),
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
