"""Writing the request log while the load goes on: rows are gathered here and written in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent
from gevent.threadpool import ThreadPool

from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.requestlog import RequestLog

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5


class LogWriter:
    """Writes what it is given within about half a second. A disk that fails ends the log, not the run.

    error: why the log is not whole; None while it is.
    """

    def __init__(self, log: RequestLog) -> None:
        self.log = log
        self.error: str | None = None
        self._waiting: list[tuple[Measurements, str]] = []
        self._pool = ThreadPool(1)
        self._greenlet = gevent.spawn(self._write_regularly)

    def add(self, measured: Measurements, worker: str) -> None:
        """Rows from a worker."""
        if self.error is None:
            self._waiting.append((measured, worker))

    def call(self, write: Callable[[], None]) -> None:
        """Run something that writes to the log, in the thread."""
        if self.error is None:
            try:
                self._pool.apply(write)
            except OSError as error:
                self.error = error.strerror or str(error)
                logger.error("the request log %s is not whole: %s", self.log.path, self.error)

    def finish(self) -> None:
        """Write what is waiting."""
        self._greenlet.kill()
        self._flush()

    def close(self, about: bytes) -> None:
        """Finish the file; the run is over."""
        self.finish()
        self.call(lambda: self.log.close(about))
        self._pool.kill()

    def _write_regularly(self) -> None:
        while True:
            gevent.sleep(WRITE_EVERY_S)
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.call(lambda: self._write(waiting))

    def _write(self, waiting: list[tuple[Measurements, str]]) -> None:
        for measured, worker in waiting:
            self.log.write(measured, worker)
