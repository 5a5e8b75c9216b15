"""A run under faults, and the one account that must come out right whatever happens in it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nursery import LocustProcess
from runs import Cluster, Finished, cluster, outcomes, write_trace

from fineserve_shapes.simulator.process import SimulatorProcess

RATE_RPS = 60.0


@dataclass
class Scene:
    """A master with its workers in the middle of a run, and the simulator's log."""

    locust: Cluster
    simulator: SimulatorProcess
    folder: Path
    requests: int
    trace: Path
    processes: list[LocustProcess]

    @property
    def master(self) -> LocustProcess:
        return self.processes[0]

    @property
    def workers(self) -> list[LocustProcess]:
        return self.processes[1:]

    def launch(self, workers: int, *arguments: object, processes: bool = False) -> None:
        """Start Locust."""
        given = ("--headless", "--only-summary", "--host", self.simulator.url, "--request-trace-csv", self.trace,
                 "--output-file", self.folder / "out.json", *arguments)  # fmt: skip
        if processes:
            self.processes = [self.locust.start("--processes", workers, *given)]
        else:
            master = self.locust.master("--expect-workers", workers, *given)
            self.processes = [master, *(self.locust.worker() for _ in range(workers))]

    def await_start(self) -> None:
        """Wait until the run's time 0."""
        output = self.locust.await_output(self.master, "worker(s)", timeout_s=60)
        assert "starts with" in output
        time.sleep(1.0)  # the lead

    def begin(self, workers: int, *arguments: object, processes: bool = False) -> None:
        """Both."""
        self.launch(workers, *arguments, processes=processes)
        self.await_start()

    def finished(self, timeout_s: float = 60.0) -> Finished:
        return self.locust.wait(self.master, timeout_s)


@contextmanager
def scene(folder: Path, seconds: float = 6.0, output_tokens: int = 5, **simulator: object) -> Iterator[Scene]:
    """Even arrivals for so many seconds; nothing is started yet but the simulator."""
    folder.mkdir(exist_ok=True)
    requests = int(seconds * RATE_RPS)
    trace = write_trace(folder / "trace.csv", (np.arange(requests) / RATE_RPS).tolist(), output_tokens=output_tokens)
    flags: dict[str, object] = {"ttft_ms": 50, "itl_ms": 10} | simulator
    with SimulatorProcess(ground_truth=folder / "truth.jsonl", **flags) as server, cluster(folder) as locust:
        yield Scene(locust, server, folder, requests, trace, [])


def received(run: str, *logs: Path) -> Counter[int]:
    """How often the server has received each index of a run, by its own log."""
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    found = [row["request_id"].rpartition("-") for row in rows]
    return Counter(int(index) for name, _, index in found if name == run)


def account(folder: Path, requests: int, *more_logs: Path, sends: int = 2) -> dict[str, int]:
    """The outcomes of the one run, after all that must always be so has been looked at."""
    summary: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return account_of(summary, requests, folder / "truth.jsonl", *more_logs, sends=sends)


def account_of(summary: dict[str, Any], requests: int, *logs: Path, sends: int = 2) -> dict[str, int]:
    """The same for a run among others. sends: how often a request that is marked as retried may have been sent."""
    counts = received(summary["run"], *logs)
    ended = outcomes(summary)
    assert summary["ledger"]["planned"] == sum(ended.values()) == requests
    assert summary["fidelity"]["ended_twice"] == 0
    assert summary["fidelity"]["malformed_reports"] == 0
    twice = {index for index, times in counts.items() if times > 1}
    assert twice <= set(summary["retried_requests"])
    assert all(times <= sends for times in counts.values())
    assert summary["retried"] == len(summary["retried_requests"])
    assert set(counts) <= set(range(requests))
    if set(ended) <= {"ok", "http_error", "cancelled", "unsent", "unknown"}:  # no connection that came to nothing
        assert len(counts) >= ended.get("ok", 0) + ended.get("http_error", 0)
        assert len(counts) <= requests - ended.get("unsent", 0)
    return ended


def workers_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())["fidelity"]["workers"]
    return found
