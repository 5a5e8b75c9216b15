"""Whether the simulator's engine can follow a real server: fitted at every other rate, held against the rates between.

Runs of locustfiles/poisson.py with request logs, one a rate, lengths uniform, the same seed at all of them. `fineserve
simulate fit`'s own fitting gets the first, third, fifth ... rate; a simulator with what it found serves the same requests
at the others, and the quantiles of TTFT and TPOT that clients see there are compared: predicted / measured - 1.

Environment: `URL` of a running server; or `VLLM_BIN`, the `vllm` of an environment, and `MODEL`, a folder, to start vLLM
on the CPU; with neither, the server is a simulator with other flags than the default ones, which must be found again.
`RATES` (2,4,...,16 requests/s), each run `TURNS` (3) times for `DURATION` (10) seconds, all in turns; `INPUT` and `OUTPUT`,
laws of the lengths; `FLAGS`, what is known of the engine, such as "--max-num-seqs 32"; `LOGS`, a folder in which the
request logs stay. With `--write` the table in docs/simulator.md is written anew.

A rented machine may be half as fast in the next minute, which is no property of the server. So a request that has the
server to itself is timed before and after each run: a run begins when that takes as long as usual, and is made again if it
does not at its end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from pathlib import Path

from benchmarks.harness import locust
from benchmarks.sidebyside import machine
from fineserve_shapes.simulator.engineflags import add_engine_flags, add_length_flag, flags_of, parameters_of
from fineserve_shapes.simulator.fitting import Observation, ServerFit, fit, read_observations
from fineserve_shapes.simulator.process import SimulatorProcess

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "simulator.md"
BEGIN, END = "<!-- calibration: written by the benchmark -->\n", "<!-- end of calibration -->\n"
SHOWN = ("TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99")
MOMENTS = ("due_s", "sent_s", "first_token_s", "last_token_s", "end_s")
APART_S = 60.0
"""Between two turns in the log of a rate: the one has nothing to do with the other."""
ROUNDS = 15
SEED = 7
KNOWN = "--max-num-seqs 32 --kv-cache-tokens 32768"
"""Of the server that is fitted, unless `FLAGS` says otherwise."""
TRUTH = "--decode-step-ms 9 --decode-step-per-seq-ms 0.8 --prefill-tokens-per-s 6000 --prefill-fixed-ms 3"
"""Of the simulator that is fitted where there is no other server."""
VLLM = "--dtype float32 --enforce-eager --max-model-len 2048 --max-num-seqs 32 --no-enable-prefix-caching"
VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
UNUSUAL = 1.12
"""A run is made again where a request by itself took so many times what it mostly does, or so much less."""
ATTEMPTS, PATIENCE, SETTLING = 4, 20, 12
"""Of one run; looks at the server's speed before it; looks by which the usual is known."""
PORT = 18_431
START_S = 180.0


@contextmanager
def simulator(flags: str) -> Iterator[str]:
    """The URL of a simulator with these flags, on the second core."""
    words = shlex.split(f"{flags} --no-enable-prefix-caching")
    named: dict[str, object] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            named[word[2:].replace("-", "_")] = True if following.startswith("--") else following
    with SimulatorProcess(**named) as server:
        _to_core(server.pid, 1)
        yield server.url


@contextmanager
def vllm(executable: str, model: str) -> Iterator[str]:
    """The URL of a vLLM that serves a model on the second core."""
    # as a module: the command of some builds for the CPU does not find the package's version
    python = Path(executable).with_name("python")
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", "127.0.0.1"]
    command += ["--port", str(PORT), *shlex.split(VLLM)]
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(
            command, stdout=said, stderr=said, env=os.environ | VLLM_ENVIRONMENT, preexec_fn=lambda: _to_core(0, 1)
        )
        try:
            url, deadline_s = f"http://127.0.0.1:{PORT}", time.monotonic() + START_S
            while not _healthy(url):
                if server.poll() is not None or time.monotonic() > deadline_s:
                    said.seek(0)
                    sys.exit(f"vLLM did not start:\n{said.read().decode(errors='replace')[-3000:]}")
                time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait(30)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _to_core(pid: int, number: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, {cores[min(number, len(cores) - 1)]})


class Pace:
    """How fast a server is by itself, by a request that it has all to itself.

    A loop of ours would not do: what a model is slowed down by, memory say, is another thing than what slows a loop down.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
            model = json.load(answer)["data"][0]["id"]
        asked = {"model": model, "prompt": list(range(1000, 1032)), "max_tokens": 32, "ignore_eos": True}
        self._body = json.dumps(asked | {"temperature": 0}).encode()
        self._took_s: list[float] = []
        for _ in range(SETTLING):
            self.look()

    def look(self) -> float:
        """What such a request takes now, as a multiple of what it mostly took."""
        took_s, headers = [], {"Content-Type": "application/json"}
        for _ in range(3):
            asking = urllib.request.Request(f"{self._url}/v1/completions", self._body, headers)
            began_s = time.perf_counter()
            with urllib.request.urlopen(asking, timeout=60) as answer:
                answer.read()
            took_s.append(time.perf_counter() - began_s)
        self._took_s.append(statistics.median(took_s))
        return self._took_s[-1] / statistics.median(self._took_s)

    def wait(self) -> None:
        """Come back when the server is as fast as usual, though not for ever."""
        for _ in range(PATIENCE):
            if is_usual(self.look()):
                break


def is_usual(pace: float) -> bool:
    """Whether a pace is near enough to what is usual."""
    return 1 / UNUSUAL < pace < UNUSUAL


def server() -> tuple[str, AbstractContextManager[str]]:
    """What is measured, in words, and a context that gives its URL."""
    if url := os.environ.get("URL"):
        return f"the server at {url}", _running(url)
    if executable := os.environ.get("VLLM_BIN"):
        model = os.environ.get("MODEL") or sys.exit("VLLM_BIN goes with MODEL, the folder of a model")
        return f"vLLM on one core, `{Path(model).name}`", vllm(executable, model)
    return f"a simulator itself (`{TRUTH}`)", simulator(f"{TRUTH} {KNOWN}")


@contextmanager
def _running(url: str) -> Iterator[str]:
    yield url


def run(url: str, rates_rps: Sequence[float], folder: Path) -> dict[float, Observation]:
    """What clients saw at each rate, in all turns."""
    folder.mkdir(parents=True, exist_ok=True)
    pace = Pace(url)
    duration_s, turns = float(os.environ.get("DURATION", "10")), int(os.environ.get("TURNS", "3"))
    logs: dict[float, list[Path]] = {rate_rps: [] for rate_rps in rates_rps}
    for turn in range(turns):
        for rate_rps in rates_rps:
            log = folder / f"{rate_rps:g}-{turn}.jsonl"
            logs[rate_rps].append(_run_undisturbed(url, rate_rps, duration_s, SEED + turn, log, pace))
    seen = {}
    for rate_rps, of_turns in logs.items():
        joined = folder / f"{rate_rps:g}.jsonl"
        joined.write_text(join([log.read_text() for log in of_turns], duration_s + APART_S))
        (seen[rate_rps],) = read_observations(str(joined))
        told = "  ".join(f"{name} {1e3 * seen[rate_rps].seen[name]:.1f}" for name in SHOWN)
        print(f"{url} at {rate_rps:g}/s: {told} ms", flush=True)
    return seen


def _run_undisturbed(url: str, rate_rps: float, duration_s: float, seed: int, log: Path, pace: Pace) -> Path:
    """One run's log, made again where the server was faster or slower than usual before or after, though not for ever."""
    for attempt in range(ATTEMPTS):
        pace.wait()
        _run(url, rate_rps, duration_s, seed, log)
        after = pace.look()
        if is_usual(after):
            break
        again = "made again" if attempt + 1 < ATTEMPTS else "kept all the same"
        print(f"{log.stem}: a request by itself took {after:.2f} times what is usual; {again}", flush=True)
    return log


def _run(url: str, rate_rps: float, duration_s: float, seed: int, log: Path) -> None:
    """One run, and its log."""
    command = locust(ROOT / "locustfiles" / "poisson.py", "--headless", "--only-summary", "--host", url)
    command += ["-t", f"{duration_s:g}s", "--num-prompts", "1000000", "--seed", str(seed), "--request-log", str(log)]
    command += ["--request-rate", f"{rate_rps:g}", "--input-length", os.environ.get("INPUT", "U(50,400)")]
    command += ["--output-length", os.environ.get("OUTPUT", "U(20,80)")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=log.parent,
        preexec_fn=lambda: _to_core(0, 0),
    )
    if not log.exists():
        sys.exit(f"the run at {rate_rps:g}/s failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    verdict = next((line for line in done.stdout.splitlines() if line.startswith("fidelity:")), "no verdict")
    if verdict != "fidelity: valid":
        print(f"{url} at {rate_rps:g}/s: {verdict}", flush=True)


def join(logs: Sequence[str], apart_s: float) -> str:
    """Request logs (JSON lines) as one, each so much later than the one before."""
    rows = []
    for number, log in enumerate(logs):
        for line in log.splitlines():
            row = json.loads(line)
            rows.append(row | {name: row[name] + number * apart_s for name in MOMENTS if row[name] is not None})
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def fitted(observations: Sequence[Observation]) -> ServerFit:
    """The engine that fits these, with the limits that are known."""
    parser = argparse.ArgumentParser()
    add_length_flag(parser)
    add_engine_flags(parser)
    known = parser.parse_args(shlex.split(f"--max-model-len 2048 {os.environ.get('FLAGS', KNOWN)}"))
    return fit(observations, parameters_of(known), ROUNDS)


def rows(measured: dict[float, Observation], predicted: dict[float, Observation]) -> list[str]:
    """A row of the table for each rate that was predicted."""
    found = []
    for rate_rps, prediction in predicted.items():
        cells = [f"{rate_rps:g}"]
        for name in SHOWN:
            was_s, said_s = measured[rate_rps].seen[name], prediction.seen[name]
            cells.append(f"{1e3 * was_s:.1f}, {1e3 * said_s:.1f} ({100 * (said_s / was_s - 1):+.0f} %)")
        found.append("| " + " | ".join(cells) + " |")
    return found


def write(page: str, table: str) -> str:
    """The page with this table between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"{PAGE} has no place for the table ({BEGIN.strip()} ... {END.strip()})")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    """Measure, fit, predict, and print the table."""
    rates_rps = [float(rate) for rate in os.environ.get("RATES", "2,4,6,8,10,12,14,16").split(",")]
    if len(rates_rps) < 3:
        sys.exit(f"RATES: three at least, to fit at every other one, got {os.environ.get('RATES')!r}")
    what, serving = server()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.environ.get("LOGS", name))
        with serving as url:
            measured = run(url, rates_rps, folder / "measured")
        found = fitted([measured[rate_rps] for rate_rps in rates_rps[::2]])
        flags = flags_of(found.parameters)
        print(f"fineserve simulate {flags}\nleft over where it was fitted: {100 * found.error:.1f} %", flush=True)
        with simulator(flags) as url:
            predicted = run(url, rates_rps[1::2], folder / "predicted")
    head = "| requests/s | " + " | ".join(f"{name}, ms" for name in SHOWN) + " |"
    shown = rows(measured, predicted)
    errors = [
        abs(math.log(predicted[rate].seen[name] / measured[rate].seen[name])) for rate in predicted for name in SHOWN
    ]
    table = (
        f"{date.today()}, {machine()}. Of {what}, fitted at {', '.join(f'{rate:g}' for rate in rates_rps[::2])} "
        f"requests/s: `{flags}`, {100 * found.error:.0f} % left over there. Measured, predicted, and the error; half "
        f"of the errors are below {100 * math.expm1(sorted(errors)[len(errors) // 2]):.0f} %.\n\n"
        f"{head}\n{'|---' * (len(SHOWN) + 1)}|\n" + "\n".join(shown) + "\n"
    )
    print(table)
    if "--write" in sys.argv:
        PAGE.write_text(write(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
