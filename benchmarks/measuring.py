"""What metrics and records cost: the client's CPU with them and without, in turns within one run.

A single process, which is client and master at once, so that all that measures runs in it; also with --request-log. For
some seconds at a time nothing that was measured is kept, packed, folded, shown or written; requests, ledger and the time
stamps of tokens go on. What the turns differ by is the cost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import REPLAY, locust, poisson_trace
from fineserve_shapes.simulator.process import SimulatorProcess

TURN_S = 2.0
TURNS = 20
SETTLE_S = 5.0  # until as many answers end as begin
SETTLE_TURN_S = 0.6  # of each turn: what the turn before has left to do (a report, a write to the log)

_LOCUSTFILE = """
import json, time
import gevent
from fineserve_shapes.engine import worker
from fineserve_shapes.engine.run import Run
from fineserve_shapes.measure.measurements import Outbox

kept = [(Outbox, "sent"), (Outbox, "add"), (Run, "account"), (worker, "_record")]
whole = [vars(owner)[name] for owner, name in kept]
turns = {True: [], False: []}

def measure(on):
    for (owner, name), function in zip(kept, whole):
        setattr(owner, name, function if on else lambda *_: None)

def take_turns():
    gevent.sleep(SETTLE_S)
    for turn in range(TURNS):
        on = turn % 2 == 0
        measure(on)
        gevent.sleep(SETTLE_TURN_S)
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        gevent.sleep(TURN_S - SETTLE_TURN_S)
        turns[on].append((time.process_time() - cpu_s) / (time.perf_counter() - wall_s))
    measure(True)
    with open("turns.json", "w") as file:
        json.dump([turns[True], turns[False]], file)

class Completions(CompletionUser):
    def on_start(self):
        gevent.spawn(take_turns)
"""


def main() -> None:
    """Print CPU with and without, and the cost's share."""
    names = {"TURNS": TURNS, "TURN_S": TURN_S, "SETTLE_TURN_S": SETTLE_TURN_S, "SETTLE_S": SETTLE_S}
    for rate_rps, output_tokens in ((200.0, 100), (500.0, 20)):
        for log in (None, "log.parquet", "log.jsonl"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                seconds = SETTLE_S + TURNS * TURN_S + 2
                trace = poisson_trace(folder / "trace.csv", rate_rps, seconds, 100, output_tokens)
                settings = "\n".join(f"{key} = {value}" for key, value in names.items())
                (folder / "run.py").write_text(settings + REPLAY + _LOCUSTFILE)
                with SimulatorProcess(ttft_ms=100, itl_ms=20) as server:
                    command = locust(Path("run.py"), "--headless", "--host", server.url)
                    command += ["--request-trace-csv", str(trace), "--timestamp-unit", "us"]
                    command += [] if log is None else ["--request-log", log]
                    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
                if not (folder / "turns.json").exists():
                    sys.exit(f"the run failed:\n{done.stdout}{done.stderr}")
                on, off = map(np.array, json.loads((folder / "turns.json").read_text()))
            costs = (on - off) / on
            error = costs.std(ddof=1) / len(costs) ** 0.5
            print(f"{rate_rps:g}/s of {output_tokens} tokens, log {log}: {on.mean():.1%} of a core with, {off.mean():.1%}"
                  f" without; metrics and records are {costs.mean():.1%} +- {error:.1%} of the client's CPU",
                  flush=True)  # fmt: skip
