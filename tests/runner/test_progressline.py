"""The line that is written anew, and the lines where there is no terminal."""

from __future__ import annotations

import io
import logging

import gevent
import pytest

from fineserve_shapes.runner import progressline
from fineserve_shapes.runner.progressline import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progressline, "TERMINAL_EVERY_S", 0.02)
    monkeypatch.setattr(progressline, "PLAIN_EVERY_S", 0.02)


def test_on_a_terminal_one_line_is_written_anew_and_none_is_left():
    output = Terminal()
    line = ProgressLine(lambda: "12 of 20 done", output)
    gevent.sleep(0.1)
    line.stop()
    written = output.getvalue()
    assert written.count("12 of 20 done") > 1
    assert "\n" not in written
    assert written.endswith("\r\x1b[K")


def test_elsewhere_lines_are_plain():
    output = io.StringIO()
    line = ProgressLine(lambda: "12 of 20 done", output)
    gevent.sleep(0.1)
    line.stop()
    assert set(output.getvalue().splitlines()) == {"12 of 20 done"}
    assert "\x1b" not in output.getvalue()


def test_nothing_is_shown_before_there_is_something():
    output = Terminal()
    line = ProgressLine(lambda: None, output)
    gevent.sleep(0.1)
    line.stop()
    assert output.getvalue() == ""


def test_a_message_of_the_log_gets_a_line_of_its_own():
    output = Terminal()
    handler = logging.StreamHandler(output)
    logging.getLogger().addHandler(handler)
    try:
        line = ProgressLine(lambda: "12 of 20 done", output)
        gevent.sleep(0.05)
        logging.getLogger("anyone").warning("something happened")
        line.stop()
    finally:
        logging.getLogger().removeHandler(handler)
    assert "12 of 20 done\r\x1b[Ksomething happened\n" in output.getvalue()
    assert not handler.filters
