"""The paced server: built when first needed, run as a process, asked for what is true.

What it does stands in `pacedserver.c`. Its clock is that of `time.perf_counter`.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from fineserve_shapes.arrays import FloatArray

SOURCE = Path(__file__).with_suffix(".c")
BUILD = Path(__file__).parents[1] / "build"
_ROW = ("read_s", "first_s", "last_s", "asked", "written")


@dataclass(frozen=True)
class Truth:
    """What the server saw. Requests, shape (n,), in the order in which they came: when each was read whole, when its first
    and its last token were written (NaN: never), tokens asked for and written. Writes, shape (m,): the gap to the write
    before in the same answer (first ones have none, so there are fewer), and how late each was. Seconds."""

    read_s: FloatArray
    first_s: FloatArray
    last_s: FloatArray
    asked: FloatArray
    written: FloatArray
    gap_s: FloatArray
    late_s: FloatArray

    @classmethod
    def read(cls, data: bytes) -> Truth:
        """From the body of `/truth`."""
        values = np.frombuffer(data)
        rows, writes = map(int, values[:2])
        requests = values[2 : 2 + rows * len(_ROW)].reshape(rows, len(_ROW))
        gap_s, late_s = values[2 + rows * len(_ROW) :].reshape(writes, 2).T
        return cls(*requests.T, gap_s[~np.isnan(gap_s)], late_s)


def compiler() -> str | None:
    """The C compiler's name, if there is one."""
    return shutil.which(os.environ.get("CC", "cc"))


def built() -> Path:
    """The server's binary, newer than its source."""
    binary = BUILD / "pacedserver"
    if not binary.exists() or binary.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        fresh = BUILD / f"pacedserver.{os.getpid()}"
        subprocess.run([compiler() or "cc", "-O2", "-Wall", "-Wextra", "-o", fresh, SOURCE], check=True)
        fresh.replace(binary)
    return binary


class PacedServer:
    """The server on a free loopback port, as a context manager. core: where it runs alone; None: anywhere."""

    def __init__(
        self, ttft_ms: float = 100.0, gap_ms: float = 10.0, model: str = "paced", core: int | None = None
    ) -> None:
        command = [str(built()), str(ttft_ms), str(gap_ms), model]
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def __enter__(self) -> PacedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.kill()
        self._process.communicate()

    def count(self) -> int:
        """How many requests came so far."""
        return int(self._ask("GET", "/count"))

    def truth(self) -> Truth:
        """All that came since the start or the last reset."""
        return Truth.read(self._ask("GET", "/truth"))

    def reset(self) -> None:
        """Forget all that came."""
        self._ask("POST", "/reset")

    def _ask(self, method: str, path: str) -> bytes:
        self._connection.request(method, path)
        return self._connection.getresponse().read()
