"""Lag of two workers at 500 arrivals/s while a third one joins, and how soon that one carries its part."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import REPLAY, locust, poisson_trace, quantiles_ms
from fineserve_shapes.simulator.process import SimulatorProcess

RATE_RPS, SECONDS, JOIN_S = 500.0, 25.0, 8.0

_LOCUSTFILE = (
    REPLAY
    + '''
import json, os

class Logged(CompletionUser):
    """Keeps when each request was due and sent, and writes it when the run is over."""
    rows = []
    def result(self, request, result):
        self.rows.append((request.due_s, result.sent_s))
    def close(self):
        super().close()
        with open(os.path.join({folder!r}, f"{os.getpid()}.sent"), "w") as file:
            json.dump(self.rows, file)
'''
)


def main() -> None:
    """Print lag before and after the join, and the joiner's part."""
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(ttft_ms=20, itl_ms=10) as server:
        folder = Path(name)
        trace = poisson_trace(folder / "trace.csv", RATE_RPS, SECONDS, 100, 5)
        locustfile = folder / "run.py"
        locustfile.write_text(_LOCUSTFILE.replace("{folder!r}", repr(name)))
        processes: list[subprocess.Popen[bytes]] = []

        def start(*arguments: object) -> subprocess.Popen[bytes]:
            with (folder / f"log{len(processes)}").open("wb") as log:
                processes.append(subprocess.Popen(locust(locustfile, *arguments), stdout=log, stderr=log))
            return processes[-1]

        try:
            port = _free_port()
            master = start("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
                           "--headless", "--only-summary", "--expect-workers", 2, "--host", server.url,
                           "--request-trace-csv", trace, "--timestamp-unit", "us")  # fmt: skip
            worker = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
            old = [start(*worker), start(*worker)]
            said = folder / "log0"
            while b"starts with" not in said.read_bytes():
                if master.poll() is not None:
                    sys.exit(said.read_text())
                time.sleep(0.05)
            started_s = time.perf_counter() + 1.0
            time.sleep(1.0 + JOIN_S)
            joined_s = time.perf_counter() - started_s
            new = start(*worker)
            master.wait(120)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
                    process.wait(30)
        sent = {p.pid: np.array(json.loads((folder / f"{p.pid}.sent").read_text())) for p in (*old, new)}
    start_s = min((rows[:, 1] - rows[:, 0]).min() for rows in sent.values())
    others = np.concatenate([sent[process.pid] for process in old])
    lag_s = others[:, 1] - others[:, 0] - start_s
    joiner = sent[new.pid]
    took_s = joiner[:, 0].min()
    for title, begin_s, end_s in (
        ("before", 1.0, joined_s),
        ("from the start of the new process to its first request", joined_s, took_s),
        ("in the 5 s after that", took_s, took_s + 5),
    ):
        part = lag_s[(others[:, 0] >= begin_s) & (others[:, 0] < end_s)]
        print(f"lag of the two, {title}: {quantiles_ms(part)}  ({len(part)} requests)")
    after = np.concatenate(list(sent.values()))
    share = (joiner[:, 0] > took_s + 1).sum() / max((after[:, 0] > took_s + 1).sum(), 1)
    print(f"the new one: first request {took_s - joined_s:.1f} s after its start, then {share:.0%} of all;"
          f" lag {quantiles_ms(joiner[:, 1] - joiner[:, 0] - start_s)}")  # fmt: skip


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
