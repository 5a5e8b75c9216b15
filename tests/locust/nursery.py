"""A process that has imported Locust and this package, and forks a Locust process for whoever asks.

Importing takes two seconds of a core, which would be most of what the tests with real processes cost. What is forked goes
on as `python -m locust` would: its own command line, environment, folder, signals and exit. Tests that start Locust as
users do (`test_output`, `test_compose`, `tests/cli`) see to it that the imports themselves work.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

POLL_S = 0.02
IMPORTED = (
    "locust.main", "fineserve_shapes.shapes", "fineserve_shapes.users", "fineserve_shapes.workload.replay",
    "fineserve_shapes.planning.synthesis", "fineserve_shapes.runner.backgroundsurvey", "fineserve_shapes.htmlreport.page",
    "pyarrow.dataset", "scipy.special",
)  # fmt: skip


class LocustProcess:
    """A forked Locust process, with what tests use of `subprocess.Popen`."""

    def __init__(
        self, arguments: list[str], *, output: Path, folder: Path, environment: Mapping[str, str], own_session: bool
    ) -> None:
        self.returncode: int | None = None
        self._leads = own_session
        self.pid: int = _ask(
            arguments=arguments,
            output=str(output),
            folder=str(folder),
            environment=dict(environment),
            own_session=own_session,
        )

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = _ask(ended=self.pid)
        return self.returncode

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        until_s = time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            if time.monotonic() > until_s:
                raise subprocess.TimeoutExpired("locust", timeout_s)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """With the whole group, where it leads one: its forked workers may outlive it."""
        self.send_signal(signal.SIGKILL)
        if self._leads:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def _ask(**question: object) -> Any:
    nursery = _nursery()
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(json.dumps(question).encode() + b"\n")
    nursery.stdin.flush()
    return json.loads(nursery.stdout.readline())


@functools.cache
def _nursery() -> subprocess.Popen[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "OPENAI_"))}
    nursery = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean | {"PYTHONWARNINGS": "ignore"},
    )

    def end() -> None:
        nursery.communicate()  # it ends with its input

    atexit.register(end)
    return nursery


# in the nursery


def serve() -> None:
    """Answer questions, one a line, until their end; in a forked process come back at once."""
    from gevent import monkey

    fork = monkey.get_original("os", "fork")  # gevent's own would begin its loop here
    waitpid = monkey.get_original("os", "waitpid")
    unread = b""
    while data := os.read(0, 65536):
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            question = json.loads(line)
            if "ended" in question:
                pid, status = waitpid(question["ended"], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if pid else None
            elif not (answer := fork()):
                become(**question)
                return
            os.write(1, json.dumps(answer).encode() + b"\n")
    os._exit(0)


def become(arguments: list[str], output: str, folder: str, environment: dict[str, str], own_session: bool) -> None:
    """Make a process that was just forked what `python -m locust` would be."""
    if own_session:
        os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR is read anew
    sys.path[0] = folder
    sys.argv = ["locust", *arguments]


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    serve()
    sys.modules["locust.main"].main()


if __name__ == "__main__":
    main()
