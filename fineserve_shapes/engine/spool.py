"""Spool: what a worker told its master, kept on the worker's own disk until it is clear that the master has it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import msgpack

logger = logging.getLogger(__name__)


class Spool:
    """Payloads of reports in the order in which they were made, in a file that vanishes with the process.

    A disk that fails ends the spool, not the run.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        try:
            self._file = tempfile.TemporaryFile(prefix="fineserve-")  # noqa: SIM115 - until `close`
        except OSError as error:
            self._give_up(error)

    def add(self, payload: Any) -> None:
        """Keep one more: plain values, as in a message."""
        if self._file is not None:
            try:
                self._file.write(msgpack.packb(payload))
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def __iter__(self) -> Iterator[Any]:
        """All that is kept. Nothing may be added after that."""
        if self._file is not None:
            self._file.seek(0)
            yield from msgpack.Unpacker(self._file)

    def close(self) -> None:
        """Nobody needs it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, error: OSError) -> None:
        logger.warning("if the master dies, this worker's records are lost: they cannot be kept on disk: %s",
                       error.strerror or error)  # fmt: skip
        self.close()
