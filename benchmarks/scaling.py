"""What a master spends on its workers and on their requests, and from that how far one master reaches.

`WORKER_RPS=200 python -m benchmarks scaling`. Real Locust processes whose user only acknowledges: each request ends after
a while with an answer of 128 tokens that nobody sent. The master has a core of its own, all workers share another, which
bounds what can be measured to some hundred requests/s in all; the rest is a line through it. WORKER_RPS is what one
worker carries of real streams (`python -m benchmarks clients` tells for this machine).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import locust
from benchmarks.processtree import cpu_s, peak_mb

CASES = ((2, 20.0), (8, 20.0), (16, 20.0), (2, 300.0), (4, 600.0), (8, 600.0))
"""Workers, requests/s."""
SETTLE_S, MEASURE_S = 6.0, 20.0
ANSWER_S = 1.0
TOKENS = 128
WORKER_RPS = 200.0
LOADS = (("18 million in a day", 18e6 / 86_400), ("172 million in a day", 172e6 / 86_400), ("100,000 a second", 1e5))
CARRIES = 0.8
"""The share of its core beyond which a process is late."""

LOCUSTFILE = f"""
import gevent
import numpy as np
from fineserve_shapes.shapes import PoissonShape
from fineserve_shapes.users import ArrivalUser, Outcome, Result
import time

GAPS_S = np.arange({TOKENS}) * {ANSWER_S / TOKENS}

class Steady(PoissonShape):
    pass

class Acknowledging(ArrivalUser):
    def perform(self, request):
        sent_s = time.perf_counter()
        gevent.sleep({ANSWER_S})
        end_s = time.perf_counter()
        times_s = sent_s + GAPS_S
        return Result(Outcome.OK, None, sent_s, end_s, first_token_s=times_s[0], first_visible_s=times_s[0],
                      last_token_s=times_s[-1], chunk_times_s=times_s, input_tokens=request.input_tokens,
                      output_tokens={TOKENS}, tokens_from="usage", finish_reason="length",
                      asked_tokens=request.output_tokens, status=200)
"""


def measure(workers: int, rate_rps: float) -> tuple[float, float, float]:
    """The master's and a worker's share of a core while the run goes on, and the master's memory, MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "run.py"
        file.write_text(LOCUSTFILE)
        first, second, *_ = sorted(os.sched_getaffinity(0))
        common = [*locust(file, "--headless", "--only-summary")]
        master = subprocess.Popen(
            [*common, "--master", "--expect-workers", str(workers), "--request-rate", str(rate_rps), "--num-prompts",
             str(int(rate_rps * (SETTLE_S + MEASURE_S + 10.0))), "--output-length", str(TOKENS), "--input-length", "100",
             "--host", "http://127.0.0.1:1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        )  # fmt: skip
        others = [
            subprocess.Popen([*common, "--worker"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
            for _ in range(workers)
        ]
        try:
            os.sched_setaffinity(master.pid, {first})
            assert master.stdout is not None
            for line in master.stdout:
                if "starts with" in line:
                    break
            else:
                sys.exit("the run did not begin")
            for process in others:
                os.sched_setaffinity(process.pid, {second})
            time.sleep(SETTLE_S)
            before, before_worker, since_s = cpu_s(master.pid), cpu_s(others[0].pid), time.monotonic()
            time.sleep(MEASURE_S)
            span_s = time.monotonic() - since_s
            of_master, of_worker = cpu_s(master.pid) - before, cpu_s(others[0].pid) - before_worker
            return of_master / span_s, of_worker / span_s, peak_mb(master.pid)
        finally:
            for process in [master, *others]:
                process.kill()
                process.wait()


def main() -> None:
    """Print the table, the line through it, and what follows."""
    print("| workers | requests/s | master: share of a core | MB | a worker: share of a core |\n|---|---|---|---|---|")
    rows, shares = [], []
    for workers, rate_rps in CASES:
        master, worker, memory_mb = measure(workers, rate_rps)
        print(f"| {workers} | {rate_rps:g} | {master:.3f} | {memory_mb:.0f} | {worker:.3f} |", flush=True)
        rows.append([1.0, workers, rate_rps])
        shares.append(master)
    (base, each, request), *_ = np.linalg.lstsq(np.array(rows), np.array(shares), rcond=None)
    carried_rps = float(os.environ.get("WORKER_RPS", WORKER_RPS))
    print(f"\nmaster = {base:.3f} + {1e3 * each:.2f} ms/s a worker + {1e6 * request:.0f} us a request")
    most_rps = (CARRIES - base) / (each / carried_rps + request)
    print(f"with {carried_rps:g} requests/s a worker, one master carries {most_rps:,.0f} requests/s"
          f" over {most_rps / carried_rps:.0f} workers")  # fmt: skip
    for name, rate_rps in LOADS:
        print(f"{name} ({rate_rps:,.0f}/s): {np.ceil(rate_rps / carried_rps):.0f} workers,"
              f" {np.ceil(rate_rps / most_rps):.0f} master(s)")  # fmt: skip


if __name__ == "__main__":
    main()
