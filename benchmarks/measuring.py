"""What metrics and records cost: their share of the client's CPU, by timing their functions within one run.

A single process, which is client and master at once; with --request-log, so that all that can be switched on is on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import poisson_trace
from fineserve_shapes.simulator.process import SimulatorProcess

_LOCUSTFILE = """
import json, time
from locust import events
from fineserve_shapes.engine.run import Run
from fineserve_shapes.measure.outbox import Measurements, Outbox
from fineserve_shapes.measure.requestlog import RequestLog
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.performer import UserPerformer
from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.users import CompletionUser

class Replay(ReplayShape):
    pass

class Completions(CompletionUser):
    pass

spent, calls = {}, {}
began = None

def timed(owner, name):
    label = owner.__name__ + "." + name
    spent[label], calls[label] = 0.0, 0
    bound = owner.__dict__[name]
    plain = bound.__func__ if isinstance(bound, classmethod) else bound
    def wrapper(*arguments, **named):
        global began
        began = time.process_time() if began is None else began
        before = time.thread_time()
        try:
            return plain(*arguments, **named)
        finally:
            spent[label] += time.thread_time() - before
            calls[label] += 1
    setattr(owner, name, classmethod(wrapper) if isinstance(bound, classmethod) else wrapper)

for owner, names in ((Outbox, ("sent", "add", "take")), (Measurements, ("unpack",)), (Tally, ("add", "plan")),
                     (Run, ("account", "fidelity")), (RequestLog, ("write",)), (UserPerformer, ("measured",))):
    for name in names:
        timed(owner, name)

@events.quitting.add_listener
def write(**_):
    with open({out!r}, "w") as file:
        json.dump({"cpu_s": time.process_time() - began, "spent": spent, "calls": calls}, file)
"""


def main() -> None:
    """Print the shares."""
    for rate_rps, output_tokens in ((200.0, 100), (500.0, 20)):
        for log in (None, "log.parquet", "log.jsonl"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                trace = poisson_trace(folder / "trace.csv", rate_rps, 15.0, 100, output_tokens)
                out = folder / "spent.json"
                (folder / "run.py").write_text(_LOCUSTFILE.replace("{out!r}", repr(str(out))))
                with SimulatorProcess(ttft_ms=100, itl_ms=20) as server:
                    command = [sys.executable, "-m", "locust", "-f", "run.py", "--headless", "--host", server.url]
                    command += ["--request-trace-csv", str(trace), "--timestamp-unit", "us"]
                    command += [] if log is None else ["--request-log", log]
                    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
                if not out.exists():
                    sys.exit(f"the run failed:\n{done.stdout}{done.stderr}")
                found = json.loads(out.read_text())
            share = sum(found["spent"].values()) / found["cpu_s"]
            parts = sorted(found["spent"].items(), key=lambda item: -item[1])
            print(f"{rate_rps:g}/s of {output_tokens} tokens, log {log}: {share:.1%} of {found['cpu_s']:.1f} s of CPU:")
            print(
                "  " + ", ".join(f"{name} {spent_s / found['cpu_s']:.1%}" for name, spent_s in parts if spent_s),
                flush=True,
            )


if __name__ == "__main__":
    main()
