"""The ground-truth log: one JSON line per request, of when each chunk was due and when it was written.

Times are CLOCK_MONOTONIC seconds, those of `time.perf_counter()` in every Python process of the machine. A thread
writes, so that a slow disk does not delay tokens; only rendering the line (some ten microseconds) is done in the loop.
"""

import queue
import threading
from typing import IO, Any

import orjson

FLUSH_INTERVAL_S = 0.02
"""On one core the loop waits as long as what has gathered takes: 0.1 ms for ten lines of a hundred chunks."""


class TruthLog:
    """Appends lines to an open file, which it owns from then on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._closing = threading.Event()
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="truth-log", daemon=True)
        self._thread.start()

    def add(self, line: dict[str, Any]) -> None:
        """Queue a line; it is in the file within about FLUSH_INTERVAL_S."""
        self._lines.put(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._closing.set()
        self._lines.put(None)
        self._thread.join()
        self._file.close()

    def _write(self) -> None:
        line = self._lines.get()
        while line is not None:
            # lines gather meanwhile: one wake-up for many, and the loop seldom waits for this thread's lock
            self._closing.wait(FLUSH_INTERVAL_S)
            gathered = []
            while line is not None:
                gathered.append(line)
                if self._lines.empty():
                    break
                line = self._lines.get()
            self._file.write(b"".join(gathered))
            self._file.flush()
            if line is not None:
                line = self._lines.get()
