"""Showing progress on a terminal: one line that is written anew, or plain lines where the output is none."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from typing import TextIO

import gevent

TERMINAL_EVERY_S = 0.5
PLAIN_EVERY_S = 10.0
_CLEAR = "\r\x1b[K"


class ProgressLine:
    """Asks for a line every half second on a terminal, every ten seconds elsewhere, and writes it to standard error.

    line: the line, or None where there is nothing to tell.
    """

    def __init__(self, line: Callable[[], str | None], output: TextIO | None = None) -> None:
        self._line = line
        self._output = sys.stderr if output is None else output
        self._terminal = self._output.isatty()
        self._shown = False
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._make_room)
        self._greenlet = gevent.spawn(self._show)

    def stop(self) -> None:
        """Leave no line behind."""
        self._greenlet.kill()
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._make_room)
        self._clear()

    def _show(self) -> None:
        while True:
            gevent.sleep(TERMINAL_EVERY_S if self._terminal else PLAIN_EVERY_S)
            if (line := self._line()) is None:
                continue
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                self._output.write(_CLEAR + line[:width])
                self._shown = True
            else:
                self._output.write(line + "\n")
            self._output.flush()

    def _clear(self) -> None:
        if self._shown:
            self._output.write(_CLEAR)
            self._output.flush()
            self._shown = False

    def _make_room(self, _record: logging.LogRecord) -> bool:
        """A message of the log is about to be written: it gets a line of its own."""
        self._clear()
        return True
