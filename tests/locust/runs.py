"""Real Locust processes against the simulator, and what they leave behind."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nursery import LocustProcess

ROOT = Path(__file__).parents[2]
REPLAY = ROOT / "locustfiles" / "replay.py"
TIMEOUT_S = 90.0


@dataclass
class Finished:
    """A process that has ended."""

    code: int
    output: str


@dataclass
class Cluster:
    """A master (or a single process) and its workers."""

    port: int
    folder: Path
    environment: dict[str, str]
    processes: list[LocustProcess] = field(default_factory=list)

    def start(
        self,
        *arguments: object,
        file: Path | str = REPLAY,
        environment: dict[str, str] | None = None,
    ) -> LocustProcess:
        """Start one Locust process; its output goes to a file of its own. With --processes it leads a group of its own, as
        it does at a terminal, and does not share Locust's one port with tests that run beside this one."""
        forks = "--processes" in arguments
        if forks:
            arguments += ("--master-bind-port", self.port, "--master-port", self.port)
        number = len(self.processes)
        log = self.folder / f"locust{number}.log"
        log.touch()
        scratch = self.folder / f"scratch{number}"  # where Locust puts the master's locustfile, by its bare name
        scratch.mkdir(exist_ok=True)
        process = LocustProcess(
            ["-f", str(file), *map(str, arguments)],
            output=log,
            folder=self.folder,  # not the checkout: nothing may depend on where Locust is started
            environment=self.environment | {"TMPDIR": str(scratch)} | (environment or {}),
            own_session=forks,
        )
        self.processes.append(process)
        return process

    def master(self, *arguments: object, file: Path | str = REPLAY) -> LocustProcess:
        """Start a master on this cluster's port."""
        return self.start(
            "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", self.port, *arguments, file=file
        )

    def worker(self, *arguments: object, environment: dict[str, str] | None = None) -> LocustProcess:
        """Start a worker that gets the locustfile from the master, and has neither the trace nor its path."""
        return self.start("--worker", "--master-host", "127.0.0.1", "--master-port", self.port, *arguments, file="-",
                          environment=environment)  # fmt: skip

    def output(self, process: LocustProcess) -> str:
        """What a process has printed so far."""
        return (self.folder / f"locust{self.processes.index(process)}.log").read_text()

    def wait(self, process: LocustProcess, timeout_s: float = TIMEOUT_S) -> Finished:
        """Wait for a process to end by itself."""
        code = process.wait(timeout_s)
        return Finished(code, self.output(process))

    def await_output(self, process: LocustProcess, text: str, timeout_s: float = 60.0) -> str:
        """Wait until a process has printed this text."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if text in (output := self.output(process)):
                return output
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{text!r} was not printed:\n{self.output(process)}")

    def stop(self) -> None:
        """End what is left, and what that has forked."""
        for process in self.processes:
            process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path, **environment: str) -> Iterator[Cluster]:
    """Locust processes that end with the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "OPENAI_"))}
    found = Cluster(free_port(), folder, clean | {"PYTHONWARNINGS": "ignore"} | environment)
    try:
        yield found
    finally:
        found.stop()


def run_locust(folder: Path, *arguments: object, file: Path | str = REPLAY, **environment: str) -> Finished:
    """Run one headless process to its end."""
    with cluster(folder, **environment) as locust:
        return locust.wait(locust.start("--headless", "--only-summary", *arguments, file=file))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def write_trace(path: Path, arrivals_s: Sequence[float], input_tokens: int = 20, output_tokens: int = 5) -> Path:
    """A trace in the published form, microseconds."""
    rows = (f"{input_tokens},{output_tokens},,{1e6 * at_s:.1f},Dense,<10B" for at_s in arrivals_s)
    path.write_text("\n".join(["input_length,output_length,latency,timestamp,architecture,scale", *rows]) + "\n")
    return path


def summary_of(path: Path) -> dict[str, Any]:
    """The summary that a run wrote."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def outcomes(summary: dict[str, Any]) -> dict[str, int]:
    """The outcomes that occurred."""
    return {name: count for name, count in summary["ledger"].items() if count and name != "planned"}


def truth(path: Path) -> list[dict[str, Any]]:
    """The simulator's log of what it received."""
    return [json.loads(line) for line in path.read_text().splitlines()]
