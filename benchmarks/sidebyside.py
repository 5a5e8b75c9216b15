"""One whole client against the paced server: what it delivered, what it says beside what is true, and what it cost.

The client has the first core, the server the second; what watches them sleeps beside the server. Environment: RUNS (3) of
each row, whose medians are shown (see LATE_MS); LOADS, such as "50x128,200x128x10": requests/s x tokens of an answer, x
seconds (20).
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.harness import loop_ms
from benchmarks.pacedserver import PacedServer, Truth, compiler
from benchmarks.processtree import cpu_s, end, peak_mb
from benchmarks.tlsterminator import TLSTerminator

LOADS = "50x128,200x128,500x128,900x64"
RUNS, TRIES = 3, 3
LATE_MS = 2.0
"""A run in which the server itself was later than that, at p99, is made again, so many times as often as asked for in all;
else those in which it was least late are taken."""
POLL_S = 0.05
MOST_S = 300.0
"""A client that has not ended after so long beside the load's own time is stopped."""
PAGE = Path(__file__).parent / "README.md"
MODEL = os.environ.get("MODEL", "paced")
"""What the server calls its model; a client that wants a tokenizer takes the folder of one from it."""


@dataclass(frozen=True)
class Load:
    """What is asked for. input_tokens: of a prompt, about. gap_ms: between the tokens of an answer."""

    rate_rps: float
    tokens: int
    seconds: float = 20.0
    input_tokens: int = 200
    gap_ms: float = 10.0
    ttft_ms: float = 100.0

    @property
    def requests(self) -> int:
        return round(self.rate_rps * self.seconds)

    @property
    def answer_s(self) -> float:
        return 1e-3 * (self.ttft_ms + (self.tokens - 1) * self.gap_ms)

    @property
    def streams(self) -> float:
        """At once, in the mean."""
        return self.rate_rps * self.answer_s

    def __str__(self) -> str:
        return f"{self.rate_rps:g}/s x {self.tokens}"


@dataclass(frozen=True)
class Said:
    """A client's own figures, milliseconds; NaN where it gives none. note: what else it says of the run. tokens: of each
    answer, as it counts them; without what it calls a failure, or 0 for it."""

    ttft_p50_ms: float = math.nan
    ttft_p99_ms: float = math.nan
    itl_p50_ms: float = math.nan
    itl_p99_ms: float = math.nan
    note: str = ""
    tokens: Sequence[int] = ()

    @classmethod
    def of(cls, ttft_s: object, itl_s: object = None, note: str = "", tokens: Sequence[int] = ()) -> Said:
        """From each request's TTFT and each gap, seconds."""
        return cls(*_quantiles_ms(ttft_s), *_quantiles_ms(itl_s), note, tokens)


@dataclass(frozen=True)
class Client:
    """command(server's URL, load, folder): how it is started, there. read(folder): its result. pinned: to one core.
    tls: to a terminator before the server, whose certificate SSL_CERT_FILE names."""

    name: str
    version: str
    command: Callable[[str, Load, Path], Sequence[object]]
    read: Callable[[Path], Said]
    pinned: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    tls: bool = False


@dataclass(frozen=True)
class Row:
    """One run. delivered_rps, gap_cv: of the requests as they came. Errors: the client's figure less the truth."""

    delivered_rps: float
    gap_cv: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    ttft_error_p50_ms: float
    ttft_error_p99_ms: float
    itl_error_p50_ms: float
    itl_error_p99_ms: float
    cpu_s_per_1000: float
    peak_mb: float
    start_s: float
    answered: float
    late_p99_ms: float
    loop_ms: float


class Failed(Exception):
    """A client that gave no result; the text is what it said last."""


def loads(default: str = LOADS) -> list[Load]:
    """What the environment asks for."""
    found = []
    for text in os.environ.get("LOADS", default).split(","):
        rate_rps, tokens, *seconds = text.split("x")
        found.append(Load(float(rate_rps), int(tokens), *map(float, seconds)))
    return found


def run(client: Client, load: Load) -> tuple[Row, str]:
    """Run it once. Returns the row and the client's note. Raises Failed."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    loops_ms = [loop_ms(first)]
    os.sched_setaffinity(0, {second})
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(PacedServer(load.ttft_ms, load.gap_ms, MODEL, second))
            url, environment = server.url, {**os.environ, **client.environment}
            if client.tls:
                terminator = stack.enter_context(_terminator(server.port, second))
                url, environment["SSL_CERT_FILE"] = terminator.url, terminator.certificate
            cores = str(first) if client.pinned else f"{first},{second}"
            command = ["taskset", "--cpu-list", cores, *map(str, client.command(url, load, folder))]
            watched = _watch(command, folder, environment, server, load)
            try:
                said = client.read(folder)
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise Failed(f"no result ({error!r}): {_last_words(folder)}") from error
            loops_ms.append(loop_ms(first))
            return _row(server.truth(), said, watched, load, statistics.mean(loops_ms)), said.note
    finally:
        os.sched_setaffinity(0, {first, second, *_})


def _terminator(port: int, core: int) -> TLSTerminator:
    try:
        return TLSTerminator(port, core)
    except FileNotFoundError:
        raise Failed("no openssl command to make a certificate with") from None


@dataclass
class _Watched:
    """began_s: on the server's clock. marks: CPU seconds and requests so far, at a tenth and at nine tenths of all, or at
    the last that came of a client that ends with its time."""

    began_s: float
    marks: list[tuple[float, int]] = field(default_factory=list)
    peak_mb: float = 0.0


def _watch(command: list[str], folder: Path, environment: dict[str, str], server: PacedServer, load: Load) -> _Watched:
    watched = _Watched(time.perf_counter())
    deadline_s = watched.began_s + load.seconds + MOST_S
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    shares = [0.1, 0.5, 0.9]
    over_s, last = math.inf, (0.0, 0)
    try:
        while process.poll() is None:
            time.sleep(POLL_S if shares else 4 * POLL_S)
            came = server.count() if shares else 0
            if not shares:  # the load is over: what is left may take memory, and disturbs nobody
                watched.peak_mb = max(watched.peak_mb, peak_mb(process.pid))
            elif came >= shares[0] * load.requests:
                watched.peak_mb = max(watched.peak_mb, peak_mb(process.pid))
                if shares.pop(0) != 0.5:
                    watched.marks.append((cpu_s(process.pid), came))
                over_s = min(over_s, time.perf_counter() + 0.9 * load.seconds)
            elif time.perf_counter() > over_s and came > last[1]:
                watched.peak_mb = max(watched.peak_mb, peak_mb(process.pid))
                last, over_s = (cpu_s(process.pid), came), time.perf_counter() + 1.0
            if time.perf_counter() > deadline_s:
                raise Failed(
                    f"not done after {load.seconds + MOST_S:.0f} s, {server.count()} of {load.requests} requests sent"
                )
    finally:
        end(process)
    if len(watched.marks) == 1 and last[1]:
        watched.marks.append(last)
    if process.returncode and len(watched.marks) < 2:
        raise Failed(f"exit code {process.returncode}: {_last_words(folder)}")
    return watched


def _last_words(folder: Path) -> str:
    lines = [line.strip() for line in (folder / "output").read_text(errors="replace").splitlines()]
    errors = [line for line in lines if any(word in line for word in ("Error", "error:", "Exception: "))]
    return ([line for line in errors or lines if line] or ["it said nothing"])[-1][:200]


def _row(truth: Truth, said: Said, watched: _Watched, load: Load, loop_ms: float) -> Row:
    if len(watched.marks) < 2:
        raise Failed(f"{len(truth.read_s)} of {load.requests} requests came")
    # what came before the load itself, such as a request that tries the server, is none of it
    read_s, first_s, asked, written = (
        column[-load.requests :] for column in (truth.read_s, truth.first_s, truth.asked, truth.written)
    )
    gaps_s = np.diff(read_s)
    ttft_ms = _quantiles_ms(first_s - read_s)
    itl_ms = _quantiles_ms(truth.gap_s)
    (cpu_low, came_low), (cpu_high, came_high) = watched.marks
    return Row(
        delivered_rps=1 / gaps_s.mean(),
        gap_cv=gaps_s.std() / gaps_s.mean(),
        ttft_p50_ms=said.ttft_p50_ms,
        ttft_p99_ms=said.ttft_p99_ms,
        ttft_error_p50_ms=said.ttft_p50_ms - ttft_ms[0],
        ttft_error_p99_ms=said.ttft_p99_ms - ttft_ms[1],
        itl_error_p50_ms=said.itl_p50_ms - itl_ms[0],
        itl_error_p99_ms=said.itl_p99_ms - itl_ms[1],
        cpu_s_per_1000=1e3 * (cpu_high - cpu_low) / max(1, came_high - came_low),
        peak_mb=watched.peak_mb,
        start_s=read_s[0] - watched.began_s,
        answered=float((written == asked).mean()),
        late_p99_ms=1e3 * float(np.quantile(truth.late_s, 0.99)),
        loop_ms=loop_ms,
    )


def _quantiles_ms(values_s: object) -> tuple[float, float]:
    values = np.asarray([] if values_s is None else values_s, dtype=float)
    values = values[np.isfinite(values)]
    return (
        (math.nan, math.nan) if not len(values) else (1e3 * np.quantile(values, 0.5), 1e3 * np.quantile(values, 0.99))
    )


HEAD = (
    "| tool | version | load | delivered/s | gap CV | TTFT p50, p99 it says, ms | TTFT error p50, p99, ms"
    " | ITL error p50, p99, ms | CPU s per 1,000 | MB | start s | answers in full | server late p99, ms | loop, ms"
    " | it says |"
)


def _cells(client: Client, load: Load) -> list[str]:
    """A row of the table: medians of some runs, or what went wrong."""
    found: list[tuple[Row, str]] = []
    wanted = int(os.environ.get("RUNS", RUNS))
    try:
        while len(found) < TRIES * wanted and sum(row.late_p99_ms <= LATE_MS for row, _ in found) < wanted:
            found.append(run(client, load))
    except Failed as failed:
        return [client.name, client.version, str(load), *["-"] * 11, f"failed: {failed}".replace("|", "/")]
    kept = sorted(found, key=lambda one: one[0].late_p99_ms)[:wanted]
    rows, note = [row for row, _ in kept], "; ".join(sorted({note for _, note in kept if note}))
    if len(found) > wanted:
        note += f" ({len(found) - wanted} of {len(found)} runs left out)"
    m = Row(**{each.name: statistics.median(getattr(row, each.name) for row in rows) for each in fields(Row)})
    return [
        client.name, client.version, str(load), f"{m.delivered_rps:.1f}", f"{m.gap_cv:.2f}",
        _pair(m.ttft_p50_ms, m.ttft_p99_ms, ""), _pair(m.ttft_error_p50_ms, m.ttft_error_p99_ms),
        _pair(m.itl_error_p50_ms, m.itl_error_p99_ms), f"{m.cpu_s_per_1000:.2f}", f"{m.peak_mb:.0f}", f"{m.start_s:.1f}",
        f"{m.answered:.1%}", f"{m.late_p99_ms:.2f}", f"{m.loop_ms:.0f}", note,
    ]  # fmt: skip


def _pair(p50: float, p99: float, sign: str = "+") -> str:
    return ", ".join("-" if math.isnan(value) else f"{value:{sign}.1f}" for value in (p50, p99))


def no_rows(tool: str, why: str) -> None:
    """Say of a tool why it is not in the table."""
    print(f"<!-- {tool}: {why} -->", flush=True)


def table(name: str, cases: Iterable[tuple[Client, Load]]) -> None:
    """Print a row for each case; with `--write` among the arguments, put them into the page, where rows of other tools and
    loads stay."""
    if compiler() is None:
        sys.exit("the paced server is C: a compiler is needed (apt-get install gcc)")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("this needs two cores, one for the server")
    print(HEAD, "|---" * (HEAD.count("|") - 1) + "|", sep="\n", flush=True)
    rows = []
    for client, load in cases:
        rows.append(f"| {' | '.join(_cells(client, load))} |")
        print(rows[-1], flush=True)
        if "--write" in sys.argv:
            _write(name, rows)


def _write(name: str, rows: Sequence[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: written by the benchmark -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = text.partition(begin)
    old, _, after = rest.partition(end)
    key = lambda row: tuple(row.split(" | ")[:3:2])  # noqa: E731 - tool and load
    fresh = {key(row): row for row in rows}
    kept = [row for row in old.splitlines() if row.startswith("| ") and row != HEAD and key(row) not in fresh]
    runs = os.environ.get("RUNS", RUNS)
    head = f"{date.today()}, {machine()}; {runs} of each, medians.\n\n{HEAD}\n{'|---' * (HEAD.count('|') - 1)}|\n"
    PAGE.write_text(before + begin + "\n" + head + "\n".join([*kept, *rows]) + "\n\n" + end + after, encoding="utf-8")


def machine() -> str:
    """The machine, in words."""
    names = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
