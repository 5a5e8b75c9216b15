"""Runs Locust against the simulator and collects what both sides saw."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fineserve_shapes.simulator.process import SimulatorProcess

REPLAY = """
from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.users import CompletionUser

class Replay(ReplayShape):
    pass
"""
"""How a benchmark's locustfile begins; a user class follows."""

_LOCUSTFILE = (
    REPLAY
    + '''
import json

class Logged(CompletionUser):
    """Keeps the stamps of every chunk in memory and writes them when the run is over."""
    rows = []
    def result(self, request, result):
        self.rows.append([request.id, result.sent_s, result.chunk_times_s])
    def close(self):
        super().close()
        with open({stamps!r}, "w") as file:
            for name, sent_s, times_s in self.rows:
                file.write(json.dumps([name, sent_s, times_s.tolist()]) + "\\n")
        self.rows.clear()
'''
)


LOOP = 5_000_000


@dataclass(frozen=True)
class Observed:
    """One run: the summary, the client's stamps and the server's truth by request id, Locust's CPU time and memory."""

    summary: dict[str, Any]
    client: dict[str, tuple[float, list[float]]]
    server: dict[str, dict[str, Any]]
    cpu_s: float
    peak_mb: float


def loop_ms(core: int) -> float:
    """What a fixed piece of work takes on a core: on a rented machine that is now this and now twice as much."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    began_s = time.thread_time()
    for _ in range(LOOP):
        pass
    took_s = time.thread_time() - began_s
    os.sched_setaffinity(0, before)
    return 1e3 * took_s


def locust(locustfile: Path, *arguments: object) -> list[str]:
    """The command that runs Locust with a locustfile."""
    return [sys.executable, "-m", "locust", "-f", str(locustfile), *map(str, arguments)]


def poisson_trace(path: Path, rate_rps: float, seconds: float, input_tokens: int, output_tokens: int) -> Path:
    """A trace of Poisson arrivals and fixed lengths, in microseconds."""
    rng = np.random.default_rng(1)
    count = int(rate_rps * seconds)
    times_us = np.cumsum(rng.exponential(1e6 / rate_rps, count))
    lines = ["timestamp,input_length,output_length"]
    lines += [f"{time_us:.1f},{input_tokens},{output_tokens}" for time_us in times_us]
    path.write_text("\n".join(lines) + "\n")
    return path


def observe(
    rate_rps: float,
    seconds: float,
    output_tokens: int,
    *arguments: str,
    input_tokens: int = 100,
    apart: bool = False,
    **simulator: object,
) -> Observed:
    """Replay a Poisson trace in one process (or as the arguments say) against a simulator with these flags.

    apart: the client on the first core alone, the simulator on the second.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace = poisson_trace(folder / "trace.csv", rate_rps, seconds, input_tokens, output_tokens)
        locustfile, stamps, out, truth = (folder / part for part in ("run.py", "stamps", "out.json", "truth.jsonl"))
        locustfile.write_text(_LOCUSTFILE.replace("{stamps!r}", repr(str(stamps))))
        with SimulatorProcess(ground_truth=truth, **simulator) as server:
            command = locust(locustfile, "--headless", "--only-summary")
            command += ["--host", server.url, "--request-trace-csv", str(trace), "--timestamp-unit", "us"]
            command += ["--output-file", str(out), *arguments]
            if apart:
                first, second, *_ = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(server.pid, {second})
                command = ["taskset", "--cpu-list", str(first), *command]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=600, check=False, cwd=folder
            )  # what the run leaves goes with the folder
            after = resource.getrusage(resource.RUSAGE_CHILDREN)  # the simulator still runs: this is Locust's
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode or not out.exists():
            sys.exit(f"the run failed:\n{done.stdout}{done.stderr}")
        return Observed(
            json.loads(out.read_text()),
            {row[0]: (row[1], row[2]) for row in map(json.loads, stamps.read_text().splitlines())},
            {row["request_id"]: row for row in map(json.loads, truth.read_text().splitlines())},
            cpu_s,
            after.ru_maxrss / 1024,
        )


def quantiles_ms(values_s: Any) -> str:
    """p50, p90, p99 and the maximum, milliseconds."""
    p50, p90, p99, top = 1e3 * np.quantile(values_s, [0.5, 0.9, 0.99, 1.0])
    return f"p50 {p50:.2f}  p90 {p90:.2f}  p99 {p99:.2f}  max {top:.2f} ms"
