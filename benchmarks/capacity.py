"""Searches for a capacity that is known, by real processes: how near they come, and what they spend.

`SEEDS=10 JOBS=6 python -m benchmarks capacity`: JOBS searches at a time, for which a machine should have twice as many
cores; a step whose load was not delivered as it should be is invalid, as ever. Further options of the locustfile stand in
FLAGS, such as "--max-lag 50ms" for a machine that is busy otherwise. The simulator has so many places, each held for as
many steps as an answer has tokens; at what rate the SLO is just met follows from that and the arrivals, by the same queue
without sockets. Steps are short, so that many requests fit into little time: how near a search comes is a matter of how
many requests its steps have, and bursts ask for more.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import locust
from fineserve_shapes.simulator.process import SimulatorProcess

SEEDS = 10
PLACES, STEP_S, TOKENS = 8, 0.0025, 5
PROMPT_TOKENS, PREFILL_TOKENS_PER_S = 40, 1e6
PREFILL_S = PROMPT_TOKENS / PREFILL_TOKENS_PER_S
LIMIT_S, SHARE = 0.0375, 0.9
START_RPS = 160.0
SETTLE_S = 2


@dataclass(frozen=True)
class Kind:
    """cv: of the gaps. requests: of a step, so many that at most one search in twenty is not within 5 %."""

    cv: float
    requests: int


KINDS = {"Poisson": Kind(1.0, 8_000), "gaps of CV 2": Kind(2.0, 16_000)}
PROCESSES = {"one process": 0, "two workers": 2}
SERVER = {
    "decode_step_ms": 1e3 * STEP_S, "max_num_seqs": PLACES, "prefill_tokens_per_s": PREFILL_TOKENS_PER_S,
    "prefill_fixed_ms": 0, "decode_step_per_seq_ms": 0, "decode_step_per_1k_context_ms": 0,
    "jitter": 0, "tail_probability": 0,
}  # fmt: skip


def met(rate_rps: float, cv: float, requests: int = 1_000_000) -> float:
    """The share of requests whose answers end within the limit, by the server's steps one after the other."""
    rng = np.random.default_rng(1)
    shape = 1 / cv**2
    arrivals = np.cumsum(rng.gamma(shape, 1 / shape / rate_rps, requests)).tolist()
    begun = deque([0] * TOKENS, TOKENS)  # how many, in each of the last steps
    now_s, arrived, waiting, ended, good = 0.0, 0, 0, 0, 0
    while ended < requests:
        busy = sum(begun) - begun[0]
        if not busy and not waiting:
            now_s = max(now_s, arrivals[arrived])
        while arrived < requests and arrivals[arrived] <= now_s:
            arrived += 1
            waiting += 1
        fresh = min(waiting, PLACES - busy)
        waiting -= fresh
        begun.append(fresh)
        now_s += STEP_S + fresh * PREFILL_S
        for at_s in arrivals[ended : ended + begun[0]]:
            good += now_s - at_s <= LIMIT_S
        ended += begun[0]
    return good / requests


def truth(cv: float) -> float:
    """The rate at which exactly that share does."""
    low, high = 1.0, PLACES / (TOKENS * STEP_S)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if met(middle, cv) >= SHARE else (low, middle)
    return (low + high) / 2


def search(kind: Kind, seed: int, workers: int) -> dict[str, Any]:
    """One search; the answer as the summary has it."""
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(**SERVER) as server:
        out = Path(name) / "capacity.json"
        port = _free_port()  # of the master: searches run beside each other
        command = locust(
            Path(__file__).parents[1] / "locustfiles" / "capacity.py", "--headless", "--only-summary",
            *("--workload", "poisson", "--request-rate", START_RPS, "--cv", kind.cv, "--input-length", PROMPT_TOKENS),
            *("--output-length", TOKENS, "--disable-stream", "--slo", f"e2e={1e3 * LIMIT_S:g}ms"),
            *("--slo-share", SHARE, "--settle", SETTLE_S, "--step-requests", kind.requests),
            *("--seed", seed, "--host", server.url, "--output-file", out),
            *(("--processes", workers, "--master-bind-port", port, "--master-port", port) if workers else ()),
            *os.environ.get("FLAGS", "").split(),
        )  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=1_800, check=False, cwd=name)
        if not out.exists():
            sys.exit(f"the search failed:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(out.read_text())["capacity"]
        return found


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def main() -> None:
    """Print a row for each search as it ends, and for each kind how many were near."""
    seeds, jobs = int(os.environ.get("SEEDS", SEEDS)), int(os.environ.get("JOBS", 1))
    known = {title: truth(kind.cv) for title, kind in KINDS.items()}
    near, covers = defaultdict[str, int](int), defaultdict[str, int](int)

    def task(kind: str, processes: str, seed: int) -> None:
        began_s = time.monotonic()
        found = search(KINDS[kind], seed, PROCESSES[processes])
        rate_rps, low, high = (found[name] or math.nan for name in ("rate_rps", "low_rps", "high_rps"))
        title = f"{kind}, {processes}"
        near[title] += abs(rate_rps / known[kind] - 1) <= 0.05
        covers[title] += low <= known[kind] <= high
        print(
            f"  {title}, seed {seed}: {rate_rps:.2f} ({rate_rps / known[kind] - 1:+.1%}), {low:.2f} to {high:.2f},"
            f" {found['limited_by']}, {len(found['steps'])} steps, {found['requests']:,} requests,"
            f" {time.monotonic() - began_s:.0f} s",
            flush=True,
        )

    for kind, known_rps in known.items():
        print(f"{kind}: {SHARE:.0%} within {1e3 * LIMIT_S:g} ms up to {known_rps:.2f} requests/s", flush=True)
    tasks = [(kind, processes, seed) for processes in PROCESSES for kind in KINDS for seed in range(seeds)]
    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(task, *one) for one in tasks]:
            done.result()
    for title in near:
        print(f"  {title}: {near[title]} of {seeds} within 5 %, the interval holds {covers[title]}", flush=True)


if __name__ == "__main__":
    main()
