"""Searches for a capacity that is known, by real processes: how near they come, and what they spend.

`SEEDS=10 python -m benchmarks capacity`; further options of the locustfile stand in FLAGS, such as "--max-lag 50ms" for a
machine that is busy otherwise. The simulator has so many places, each held for as many steps as an answer has
tokens; at what rate the SLO is just met follows from that and the arrivals, by the same queue without sockets.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import locust
from fineserve_shapes.simulator.process import SimulatorProcess

SEEDS = 10
PLACES, STEP_S, TOKENS = 8, 0.02, 5
LIMIT_S, SHARE = 0.3, 0.9
START_RPS = 20.0
SETTLE_S, REQUESTS = 5, 2_000
KINDS = {"Poisson": 1.0, "gaps of CV 2": 2.0}
PROCESSES = {"one process": 0, "two workers": 2}
SERVER = {
    "decode_step_ms": 1e3 * STEP_S, "max_num_seqs": PLACES, "prefill_tokens_per_s": 1e6, "prefill_fixed_ms": 0,
    "decode_step_per_seq_ms": 0, "decode_step_per_1k_context_ms": 0, "jitter": 0, "tail_probability": 0,
}  # fmt: skip


def met(rate_rps: float, cv: float, requests: int = 200_000) -> float:
    """The share of requests whose answers end within the limit."""
    rng = np.random.default_rng(1)
    shape = 1 / cv**2
    arrivals = np.cumsum(rng.gamma(shape, 1 / shape / rate_rps, requests)).tolist()
    free = [0.0] * PLACES
    good = 0
    for at_s in arrivals:
        start_s = math.ceil(max(at_s, free[0]) / STEP_S - 1e-6) * STEP_S
        end_s = start_s + TOKENS * STEP_S
        heapq.heapreplace(free, end_s)
        good += end_s - at_s <= LIMIT_S
    return good / requests


def truth(cv: float) -> float:
    """The rate at which exactly that share does."""
    low, high = 1.0, PLACES / (TOKENS * STEP_S)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if met(middle, cv) >= SHARE else (low, middle)
    return (low + high) / 2


def search(cv: float, seed: int, workers: int) -> dict[str, Any]:
    """One search; the answer as the summary has it."""
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(**SERVER) as server:
        out = Path(name) / "capacity.json"
        command = locust(Path(__file__).parents[1] / "locustfiles" / "capacity.py", "--headless", "--only-summary")
        command += [
            *("--workload", "poisson", "--request-rate", str(START_RPS), "--cv", str(cv), "--input-length", "40"),
            *("--output-length", str(TOKENS), "--disable-stream", "--slo", f"e2e={1e3 * LIMIT_S:g}ms"),
            *("--slo-share", str(SHARE), "--settle", str(SETTLE_S), "--step-requests", str(REQUESTS)),
            *("--seed", str(seed), "--host", server.url, "--output-file", str(out)),
            *(("--processes", str(workers)) if workers else ()),
            *os.environ.get("FLAGS", "").split(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1_800, check=False)
        if not out.exists():
            sys.exit(f"the search failed:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(out.read_text())["capacity"]
        return found


def main() -> None:
    """Print a row for each search, and for each kind how many were near."""
    seeds = int(os.environ.get("SEEDS", SEEDS))
    for kind, cv in KINDS.items():
        known_rps = truth(cv)
        print(f"{kind}: {SHARE:.0%} within {1e3 * LIMIT_S:g} ms up to {known_rps:.2f} requests/s", flush=True)
        for title, workers in PROCESSES.items():
            near = covers = 0
            for seed in range(seeds):
                began_s = time.monotonic()
                found = search(cv, seed, workers)
                rate_rps, low, high = (found[name] or math.nan for name in ("rate_rps", "low_rps", "high_rps"))
                near += abs(rate_rps / known_rps - 1) <= 0.05
                covers += low <= known_rps <= high
                print(
                    f"  {title}, seed {seed}: {rate_rps:.2f} ({rate_rps / known_rps - 1:+.1%}), {low:.2f} to {high:.2f},"
                    f" {found['limited_by']}, {len(found['steps'])} steps, {found['requests']:,} requests,"
                    f" {time.monotonic() - began_s:.0f} s",
                    flush=True,
                )
            print(f"  {title}: {near} of {seeds} within 5 %, the interval holds {covers}", flush=True)


if __name__ == "__main__":
    main()
