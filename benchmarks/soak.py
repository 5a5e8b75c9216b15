"""A long run under fire: 300 requests/s over two workers that are killed at random, against a server with faults.

`make soak` (DURATION=1200 seconds by default), or `python -m benchmarks.soak SECONDS`. Prints the memory of every process
over time, and in the end the account by the server's own log. Exit code 1 where that does not come out right.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fineserve_shapes.simulator.process import SimulatorProcess

RATE_RPS = 300
EVERY_S = 10.0
KILLS = 10  # on average, and at least one in two minutes
FAULTS = (
    "http_500=0.01,http_429=0.005,error_midstream=0.005,truncate=0.003,reset=0.003,stall=0.002,garbage=0.002,"
    "garbage_framing=0.002,endless=0.001,comments=0.001"
)
LOCUSTFILE = Path(__file__).parents[1] / "locustfiles" / "poisson.py"


class Site:
    """A master and two workers."""

    def __init__(self, folder: Path, url: str, seconds: float) -> None:
        self._folder = folder
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.out = folder / "out.json"
        self.master = self._start(
            "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", self._port, "--headless",
            "--expect-workers", 2, "--host", url, "--request-rate", RATE_RPS, "--run-time", f"{seconds:.0f}s",
            "--input-length", "20", "--output-length", "8", "--progress-timeout", 5, "--drain-timeout", 20,
            "--output-file", self.out,
        )  # fmt: skip
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> subprocess.Popen[bytes]:
        return self._start("--worker", "--master-host", "127.0.0.1", "--master-port", self._port)

    def _start(self, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *map(str, arguments)]
        with (self._folder / f"log{len(self._processes)}").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._processes.append(process)
        return process

    def said(self) -> str:
        """What the master has printed."""
        return (self._folder / "log0").read_text(errors="replace")

    def tracebacks(self) -> int:
        """In all output."""
        return sum(path.read_text(errors="replace").count("Traceback") for path in self._folder.glob("log*"))

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def resident_mb(pid: int) -> float:
    """Memory of a process, and how many descriptors it holds is `descriptors`."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return -1


def main() -> None:
    """Run it."""
    seconds = float(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DURATION", 1200))
    rng = random.Random(int(os.environ.get("SEED", 1)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = folder / "truth.jsonl"
        with SimulatorProcess(ttft_ms=50, itl_ms=10, ground_truth=truth, fault=FAULTS) as server:
            site = Site(folder, server.url, seconds)
            try:
                kills, history = _watch(site, server.pid, seconds, rng)
                code = site.master.wait(120)
            finally:
                site.close()
        sys.exit(_judge(site, truth, kills, history, code))


def _watch(
    site: Site, server_pid: int, seconds: float, rng: random.Random
) -> tuple[int, dict[str, list[tuple[float, float]]]]:
    while "starts with" not in site.said():
        if site.master.poll() is not None:
            sys.exit(site.said())
        time.sleep(0.2)
    pause_s = min(seconds / KILLS, 120.0)
    begin_s = time.monotonic()
    next_kill_s, kills = begin_s + rng.uniform(0.5, 1.5) * pause_s, 0
    history: dict[str, list[tuple[float, float]]] = {"master": [], "simulator": [], "worker 1": [], "worker 2": []}
    print("seconds  " + "  ".join(f"{name:>12}" for name in history) + "    MB resident / descriptors", flush=True)
    while site.master.poll() is None and time.monotonic() - begin_s < seconds + 100:
        time.sleep(EVERY_S)
        now_s = time.monotonic() - begin_s
        pids = [site.master.pid, server_pid, *(worker.pid for worker in site.workers)]
        for values, pid in zip(history.values(), pids, strict=True):
            values.append((now_s, resident_mb(pid)))
        shown = (f"{resident_mb(pid):6.1f} /{descriptors(pid):4d}" for pid in pids)
        print(f"{now_s:7.0f}  " + "  ".join(f"{text:>12}" for text in shown), flush=True)
        if time.monotonic() >= next_kill_s and now_s < seconds - 15:
            slot = int(rng.random() < 0.8)  # the first one lives longer, so that its memory over time shows
            site.workers[slot].kill()
            site.workers[slot].wait()
            site.workers[slot] = site.worker()
            kills += 1
            next_kill_s = time.monotonic() + rng.uniform(0.5, 1.5) * pause_s
            print(f"{now_s:7.0f}  worker {slot + 1} was killed; another one starts", flush=True)
    return kills, history


def _judge(site: Site, truth: Path, kills: int, history: dict[str, list[tuple[float, float]]], code: int) -> int:
    if not site.out.exists():
        print(site.said())
        return 1
    summary: dict[str, Any] = json.loads(site.out.read_text())
    ledger = dict(summary["ledger"])
    planned = ledger.pop("planned")
    with truth.open() as lines:
        counts = Counter(json.loads(line)["request_id"] for line in lines)
    twice = sum(times > 1 for times in counts.values())
    print(f"\n{kills} kills; exit code {code}; {planned:,} planned = "
          + " + ".join(f"{count:,} {outcome}" for outcome, count in ledger.items() if count))  # fmt: skip
    print(
        f"the server received {len(counts):,} requests, {twice} of them twice; {summary['retried']} marked as retried"
    )
    print(f"passed on {summary['fidelity']['passed_on']:,}, ended twice {summary['fidelity']['ended_twice']},"
          f" lag p99 {summary['fidelity']['lag_p99_ms']:.1f} ms, tracebacks {site.tracebacks()}")  # fmt: skip
    for name in ("master", "simulator"):
        values = [mb for _, mb in history[name] if mb > 0]  # not of one that has ended
        third = values[len(values) // 3 :]
        print(f"{name}: {third[0]:.1f} MB after a third of the time, {third[-1]:.1f} MB at the end")
    good = planned == sum(ledger.values()) and twice <= summary["retried"] and not summary["fidelity"]["ended_twice"]
    return 0 if good and not site.tracebacks() else 1


if __name__ == "__main__":
    main()
