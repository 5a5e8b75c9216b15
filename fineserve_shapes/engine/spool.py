"""Spool: the records that a worker sent to its master, on the worker's own disk until the master says that all is well."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgpack
import zstandard

from fineserve_shapes.measure.measurements import Measurements, Outbox
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.requestlog import RequestLog

logger = logging.getLogger(__name__)

_KEPT = ("records", "errors", "token_times")
_LEFT_OUT = {"sent": b"", "first": b"", "gaps": b"", "itl": []}  # in which a request log has no interest


class Spool:
    """What measurements say of single requests, in the order in which they were made.

    The file has no name and vanishes with the process. It lies in the working directory, where its rows will be written
    if they are needed, and takes some 80 bytes a request. A disk that fails ends the spool, not the run.

    outbox: where the payloads come from, which knows whether they hold the times of tokens. names: of the streams.
    """

    def __init__(self, run: str, worker: str, outbox: Outbox, names: Names) -> None:
        self._run, self._worker, self._outbox, self._names = run, worker, outbox, names
        self._file: IO[bytes] | None = None
        self._compressor = zstandard.ZstdCompressor(level=1)
        try:
            self._file = tempfile.TemporaryFile(prefix="fineserve-", dir=".")  # noqa: SIM115 - until `close`
        except OSError as error:
            self._give_up(error)

    def add(self, payload: dict[str, Any]) -> None:
        """Keep one more of what `Outbox.take` packed."""
        if self._file is None or not payload["records"]:
            return
        packed = msgpack.packb({name: payload[name] for name in _KEPT if name in payload})
        try:
            self._file.write(msgpack.packb(self._compressor.compress(packed)))
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _payloads(self) -> Iterator[dict[str, Any]]:
        """All that is kept, as `Measurements.unpack` takes it."""
        if self._file is None:
            return
        self._file.seek(0)
        for compressed in msgpack.Unpacker(self._file, max_buffer_size=0):
            yield _LEFT_OUT | msgpack.unpackb(zstandard.decompress(compressed))

    def leave(self) -> None:
        """Write all of it as a request log, `fineserve-<run>-<worker>.jsonl`; never raises. Nothing may be added after."""
        try:
            self._write()
        except Exception as error:  # the rest of the worker's end must go on
            logger.exception("records of this worker that the master may not have are lost: %s", error)

    def _write(self) -> None:
        path = Path(f"fineserve-{self._run}-{self._worker}.jsonl")
        log: RequestLog | None = None
        for payload in self._payloads():
            if log is None:
                outbox = self._outbox
                log = RequestLog(path, self._run, self._names, token_times=outbox.token_times, warmup_s=outbox.warmup_s)
            log.write(Measurements.unpack(payload), self._worker)
        if log is not None:
            log.close()
            logger.warning("the master has not said that it has all of them: the records of this worker's %d requests are"
                           " left in %s", log.rows, path)  # fmt: skip

    def close(self) -> None:
        """Drop the records: they are not needed any more."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what could not be written is tried once more
                file.close()

    def _give_up(self, error: OSError) -> None:
        self.close()
        logger.warning("if the master dies, this worker's records are lost: they cannot be kept on disk: %s",
                       error.strerror or error)  # fmt: skip
