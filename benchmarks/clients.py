"""This package's client and plain Locust users against the paced server: delivered load, errors of TTFT and ITL, CPU.

Beside the loads of `sidebyside`: two processes, TLS, very long prompts, ten thousand streams at once, 1,600 of 50 tokens/s,
a closed loop. Environment: CLIENTS, parts of names with commas between them (all).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import locust as locust_package
import pyarrow.parquet

from benchmarks.harness import locust
from benchmarks.sidebyside import Client, Load, Said, loads, table
from fineserve_shapes import __version__

_ROOT = Path(__file__).parents[1]
MORE_S = 3.0
"""What chance and the start of users may take beside the load's time and an answer's."""
_LOG, _SUMMARY, _ROWS = "log.parquet", "summary.json", "rows.jsonl"


def ours(name: str, *arguments: object, rate_rps: float | None = None, tls: bool = False, **environment: str) -> Client:
    """locustfiles/poisson.py with these options more. rate_rps: asked for in place of the load's own."""

    def command(url: str, load: Load, _: Path) -> list[str]:
        command = locust(_ROOT / "locustfiles" / "poisson.py", "--headless", "--only-summary", "--host", url)
        options = {
            "--request-rate": rate_rps or load.rate_rps, "--num-prompts": load.requests,
            "--input-length": load.input_tokens, "--output-length": load.tokens,
            "--request-log": _LOG, "--output-file": _SUMMARY,
        }  # fmt: skip
        return [*command, *(str(word) for pair in options.items() for word in pair), *map(str, arguments)]

    paths = filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])
    environment = {"PYTHONPATH": os.pathsep.join(paths), **environment}
    return Client(name, __version__, command, _read_ours, "--processes" not in arguments, environment, tls)


def _read_ours(folder: Path) -> Said:
    summary = json.loads((folder / _SUMMARY).read_text())
    log = pyarrow.parquet.read_table(folder / _LOG, columns=["sent_s", "first_token_s"]).to_pandas()
    ttft = Said.of(log["first_token_s"] - log["sent_s"])
    verdict = summary["fidelity"]["verdict"]
    return replace(ttft, itl_p50_ms=summary["median_itl_ms"], itl_p99_ms=summary["p99_itl_ms"], note=verdict)


def plain(name: str, user: str) -> Client:
    """A user of plain Locust, so many of them that they make the load's rate, half of whose time is waiting. They end soon
    after the load's own time: what they have not sent by then is missing from what was delivered."""

    def command(url: str, load: Load, folder: Path) -> list[str]:
        users = max(1, round(2 * load.rate_rps * load.answer_s))
        command = locust(_ROOT / "benchmarks" / "plainlocust.py", user, "--headless", "--only-summary", "--host", url)
        times = ["-t", f"{math.ceil(load.seconds + load.answer_s + MORE_S)}s", "--stop-timeout", "10"]
        settings = {
            "TOKENS": load.tokens, "WAIT_S": load.answer_s, "REQUESTS": load.requests, "ROWS": folder / _ROWS
        }  # fmt: skip
        names = [f"{name}={value}" for name, value in settings.items()]
        return ["env", *names, *command, "-u", str(users), "-r", str(users), *times]

    return Client(name, locust_package.__version__, command, _read_rows)


def _read_rows(folder: Path) -> Said:
    rows = [json.loads(line) for line in (folder / _ROWS).read_text().splitlines()]
    return Said.of([ttft_s for ttft_s, _ in rows], [gap_s for _, gaps_s in rows for gap_s in gaps_s])


OURS = ours("fineserve_shapes")
EVERYWHERE = (
    OURS,
    ours("the same, no part in C", FINESERVE_NO_LANES="1"),
    ours("the same, two processes on both cores", "--processes", 2),
    plain("Locust HttpUser", "RequestsUser"),
    plain("Locust FastHttpUser", "FastUser"),
)
LONG_PROMPTS = Load(5, 128, input_tokens=50_000)
MANY_STREAMS = Load(500, 21, seconds=30, gap_ms=1000)  # 20.1 s an answer: 10,050 at once
DENSE_STREAMS = Load(198, 400, gap_ms=20)  # 8.1 s an answer: 1,600 at once, 80,000 tokens/s
FEWER_DENSE = Load(148.5, 400, gap_ms=20)
SHORT = Load(2000, 2, seconds=10, input_tokens=20, gap_ms=1, ttft_ms=20)  # 64 at once could be 3,000 a second
CLOSED = Load(100, 128)  # how many requests there are; 64 at once make fewer a second
SPECIAL = (
    (ours("over TLS", tls=True), Load(50, 128)),
    (ours("over TLS", tls=True), Load(100, 128)),  # at twice that the terminator fills the server's core
    (ours("prompts of 50,000 tokens"), LONG_PROMPTS),
    (ours("10,000 streams at once"), MANY_STREAMS),
    (ours("1,600 streams of 50 tokens/s"), DENSE_STREAMS),
    (ours("1,200 streams of 50 tokens/s"), FEWER_DENSE),
    (ours("closed loop of 64", "--max-concurrency", 64, rate_rps=5_000), CLOSED),
    (ours("short closed loop of 64", "--max-concurrency", 64, rate_rps=20_000), SHORT),
)


def main() -> None:
    """Print the table."""
    wanted = os.environ.get("CLIENTS", "").lower().split(",")
    every = [*((client, load) for load in loads() for client in EVERYWHERE), *SPECIAL]
    table("clients", [(client, load) for client, load in every if any(name in client.name.lower() for name in wanted)])
