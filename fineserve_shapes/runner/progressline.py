"""Progress line: one line that is rewritten on a terminal, or plain lines where the output is none."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from typing import TextIO

import gevent

from fineserve_shapes.engine.run import Run
from fineserve_shapes.measure.ledger import done, failed
from fineserve_shapes.measure.progress import Progress
from fineserve_shapes.outcome import ASIDE
from fineserve_shapes.workload.plan import Plan

TERMINAL_EVERY_S = 0.5
PLAIN_EVERY_S = 10.0
RATE_OVER_S = 10.0
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
        """Stop, and clear the line."""
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


def progress_of(run: Run, plan: Plan) -> str | None:
    """The run in one line; None before it has begun."""
    now_s = run.now_s
    if now_s < 0:
        return None
    ledger, ttft = run.book.ledger, run.totals.latencies["ttft"]
    since_s = max(now_s - RATE_OVER_S, 0.0)
    return Progress(
        elapsed_s=now_s,
        done=done(ledger),
        planned=plan.requests,
        rate_rps=run.tally.series.between("sent", since_s, now_s) / max(now_s - since_s, 1.0),
        in_flight=run.in_flight,
        failed=failed(ledger),
        ttft_p50_s=ttft.quantile(0.5),
        ttft_p99_s=ttft.quantile(0.99),
        end_s=now_s if run.stopping else plan.span_s if run.settings.run_time_s is None else run.settings.run_time_s,
        aside={outcome: ledger[outcome] for outcome in ASIDE if ledger[outcome]},
    ).line()
