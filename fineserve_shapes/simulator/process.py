"""The simulator as a process of its own, for tests and for runs without a server.

Works from a process that gevent has patched as well as from a plain one: it waits by polling a pipe of its own, with
`time.sleep`, and so needs neither threads nor `select`.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import IO

from fineserve_shapes.errors import InputError

_LISTENING = re.compile(rb"listening on (http://\S+) \(model (.*)\)\n")
_POLL_S = 0.01


class SimulatorProcess:
    """A `fineserve simulate` on a free loopback port, as a context manager or by `start` and `stop`.

    Flags are keyword arguments: `SimulatorProcess(ttft_ms=100, itl_ms=20, per_request_metrics=True)`.
    It ends with this process at the latest, also if that is killed.

    Parameters
    ----------
    start_timeout_s
        How long to wait for it to listen.
    flags
        Flags of `fineserve simulate` with underscores; True gives the flag alone, None and False leave it out.

    Raises
    ------
    InputError
        From `start`, if a flag is refused.
    RuntimeError
        From `start`, if it does not listen in time, or ends for another reason.
    """

    def __init__(self, *, start_timeout_s: float = 20.0, **flags: object) -> None:
        self.url = ""
        self.model = ""
        self._start_timeout_s = start_timeout_s
        self._arguments = ["--port", "0", "--exit-with-parent", str(os.getpid())]
        for name, value in flags.items():
            if value is not None and value is not False:
                self._arguments.append("--" + name.replace("_", "-"))
                if value is not True:
                    self._arguments.append(str(value))
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the simulator is not running")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> "SimulatorProcess":
        """Start it and wait until it listens."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives until stop
        try:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "fineserve_shapes.cli", "simulate", *self._arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=write_fd,
                    stderr=self._errors,
                    # Ctrl-C at a terminal is for this process, which may want its answers to the end
                    start_new_session=True,
                )
            finally:
                os.close(write_fd)
            match = self._await_line(read_fd)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(read_fd)
        self.url, self.model = match[1].decode(), match[2].decode()
        return self

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it: SIGTERM, so that its log is complete, and SIGKILL if that does not help. Does nothing twice."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def __enter__(self) -> "SimulatorProcess":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _await_line(self, read_fd: int) -> re.Match[bytes]:
        assert self._process is not None
        output = b""
        deadline_s = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline_s:
            try:
                piece = os.read(read_fd, 65536)
            except BlockingIOError:
                time.sleep(_POLL_S)
                continue
            output += piece
            if match := _LISTENING.search(output):
                return match
            if not piece:
                break
        else:
            raise RuntimeError(f"the simulator did not listen within {self._start_timeout_s} s{self._last_words()}")
        code = self._process.wait()
        words = self._last_words()
        if code == 2:
            raise InputError("the simulator refused its flags" + words)
        raise RuntimeError(f"the simulator ended with code {code} before it listened{words}")

    def _last_words(self) -> str:
        """The last line of its standard error."""
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return f": {lines[-1].removeprefix('fineserve: error: ')}" if lines else ""
