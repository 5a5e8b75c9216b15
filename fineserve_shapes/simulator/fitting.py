"""From what a server was seen to do to the parameters of an engine that does the same: `fineserve simulate fit`.

The engine model replays the arrivals and lengths of each observation in its own time, without waiting, and the figures
of its latencies are compared with those seen: the quantiles of TTFT and TPOT, and the median TTFT of the requests with
the shorter and with the longer prompts, which tells the cost of a prompt from the cost of a token of it. The parameters
minimise the sum of squares of

    weight * log(simulated figure / seen figure),    weights 1 for medians, 1/2 and 1/4 for p90 and p99

over all observations: relative errors, so that slow and fast ones count alike. A first guess comes from the quietest
and the busiest observation. Then least squares over the logarithms of the parameters, with differences of 5 % for
derivatives: a simulation has none, and smaller differences show the order of its events rather than its slope.

TPOT is (last token - first token) / (output tokens - 1), of requests with at least two.
"""

import math
import random
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.batching import BatchEngine, EngineParameters
from fineserve_shapes.simulator.engine import Sequence

QUANTILES = (0.5, 0.9, 0.99)
WEIGHTS = {"p90": 0.5, "p99": 0.25}
"""Of figures that say so in their names; others weigh 1."""
FITTED = ("step_s", "per_sequence_s", "prefill_s_per_token", "prefill_fixed_s", "context_s_per_token", "jitter")
SMALLEST = 1e-9
DIFFERENCE = 0.05
CURVE_REQUESTS = 400


@dataclass(frozen=True, slots=True, eq=False)
class OfferedLoad:
    """Requests: when they arrive (s, in order), and their tokens; each of shape (n,)."""

    arrival_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A load and the figures that were seen under it, by their names (see `figures`); `name` says which it is."""

    name: str
    load: OfferedLoad
    seen: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ServerFit:
    """Parameters, and the root of the mean squared relative error that is left."""

    parameters: EngineParameters
    error: float


def simulated(parameters: EngineParameters, load: OfferedLoad, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """TTFT and TPOT of each request of a load, shape (n,), seconds; TPOT is NaN for one token."""
    engine = BatchEngine(parameters, random.Random(seed))
    sequences = [
        Sequence(prompt, output)
        for prompt, output in zip(load.input_tokens.tolist(), load.output_tokens.tolist(), strict=True)
    ]
    first: dict[Sequence, float] = {}
    last: dict[Sequence, float] = {}

    def take(until_s: float) -> None:
        for due_s, sequence, _ in engine.advance(until_s):
            first.setdefault(sequence, due_s)
            last[sequence] = due_s

    for arrival_s, sequence in zip(load.arrival_s.tolist(), sequences, strict=True):
        take(arrival_s)
        engine.submit(sequence, arrival_s)
    while (next_s := engine.next_s()) is not None:
        take(next_s)
    first_s = np.array([first[sequence] for sequence in sequences])
    last_s = np.array([last[sequence] for sequence in sequences])
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot_s = (last_s - first_s) / (load.output_tokens - 1)
    return first_s - load.arrival_s, np.where(load.output_tokens > 1, tpot_s, np.nan)


def figures(load: OfferedLoad, ttft_s: FloatArray, tpot_s: FloatArray) -> dict[str, float]:
    """What is compared, in seconds: quantiles, and medians of TTFT by the length of prompts if that varies."""
    found: dict[str, float] = {}
    for name, values_s in (("TTFT", ttft_s), ("TPOT", tpot_s)):
        for quantile in QUANTILES:
            found[f"{name} p{100 * quantile:g}"] = float(np.nanquantile(values_s, quantile))
    longer = load.input_tokens > np.median(load.input_tokens)
    if longer.any():
        found["TTFT of shorter prompts"] = float(np.median(ttft_s[~longer]))
        found["TTFT of longer prompts"] = float(np.median(ttft_s[longer]))
    return found


def errors(parameters: EngineParameters, observed: Observation) -> dict[str, float]:
    """log(simulated / seen) of every figure that was seen."""
    found = figures(observed.load, *simulated(parameters, observed.load))
    return {name: math.log(found[name] / seen) for name, seen in observed.seen.items()}


def _weight(name: str) -> float:
    return WEIGHTS.get(name[-3:], 1.0)


def fit(observations: Rows[Observation], known: EngineParameters, rounds: int = 30) -> ServerFit:
    """The parameters that fit best, with the limits of `known`.

    Raises
    ------
    InputError
        If a request of an observation can never fit the engine's KV cache.
    """
    longest = max(int((each.load.input_tokens + each.load.output_tokens).max()) for each in observations)
    if longest > known.kv_cache_tokens // known.block_tokens * known.block_tokens:
        raise InputError(f"a request of {longest} tokens does not fit the KV cache (--kv-cache-tokens)")

    def parameters_at(point: FloatArray) -> EngineParameters:
        values = {name: float(math.exp(min(value, 5.0))) for name, value in zip(FITTED, point, strict=True)}
        return replace(known, **values | {"jitter": min(values["jitter"], 2.0)})  # type: ignore[arg-type]

    def residuals(point: FloatArray) -> FloatArray:
        parameters = parameters_at(point)
        found = [(name, error) for each in observations for name, error in errors(parameters, each).items()]
        return np.array([_weight(name) * error for name, error in found])

    start = _guess(observations, known)
    origin = np.array([math.log(max(SMALLEST, getattr(start, name))) for name in FITTED])
    found = least_squares(residuals, origin, diff_step=DIFFERENCE, max_nfev=rounds)
    weights = np.array([_weight(name) for each in observations for name in each.seen])
    return ServerFit(parameters_at(found.x), math.sqrt(float(np.sum(found.fun**2) / np.sum(weights**2))))


def _guess(observations: Rows[Observation], known: EngineParameters) -> EngineParameters:
    quiet = min(observations, key=lambda each: each.seen["TPOT p50"])
    busy = max(observations, key=lambda each: each.seen["TPOT p50"])
    step_s, busy_s = 0.9 * quiet.seen["TPOT p50"], busy.seen["TPOT p50"]
    # as many run at once as arrive in the time that one takes
    span_s = max(1e-9, float(np.ptp(busy.load.arrival_s)))
    rate_rps = len(busy.load.arrival_s) / span_s
    running = min(known.max_num_seqs, rate_rps * float(busy.load.output_tokens.mean()) * busy_s)
    rest_s = max(0.1 * step_s, quiet.seen["TTFT p50"] - step_s)
    prompts = quiet.load.input_tokens
    middle = float(np.median(prompts))
    token_s = 0.5 * rest_s / middle
    if "TTFT of longer prompts" in quiet.seen:
        longer = prompts > middle
        difference_s = quiet.seen["TTFT of longer prompts"] - quiet.seen["TTFT of shorter prompts"]
        token_s = difference_s / float(np.median(prompts[longer]) - np.median(prompts[~longer]))
        token_s = min(max(token_s, 0.05 * rest_s / middle), 0.95 * rest_s / middle)
    return replace(
        known,
        step_s=step_s,
        per_sequence_s=max(0.01 * step_s, (busy_s - step_s) / max(1.0, 2 * running)),
        prefill_s_per_token=token_s,
        prefill_fixed_s=rest_s - token_s * middle,
        context_s_per_token=0.02 * step_s / max(1.0, running * float(busy.load.input_tokens.mean())),
        jitter=0.1,
    )


def read_observations(path: str, seed: int = 0) -> list[Observation]:
    """What a file says: a request log (`--request-log`) is one observation, each row of a curve is one.

    A curve has the columns rate_rps, input_tokens, output_tokens, ttft_ms and tpot_ms: medians seen under Poisson
    arrivals at that rate, of requests of those lengths.

    Raises
    ------
    InputError
        If the file cannot be read or has other columns.
    """
    import pandas as pd

    readers: dict[str, Callable[[str], Any]] = {
        ".parquet": pd.read_parquet,
        ".jsonl": lambda file: pd.read_json(file, lines=True),
        ".csv": pd.read_csv,
    }
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise InputError(f"{path} is neither .parquet nor .jsonl nor .csv")
    try:
        frame = reader(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if {"rate_rps", "input_tokens", "output_tokens", "ttft_ms", "tpot_ms"} <= set(frame.columns):
        return [_of_curve(path, row, seed) for row in frame.to_dict("records")]
    wanted = {"outcome", "sent_s", "first_token_s", "last_token_s", "input_tokens", "asked_input", "output_tokens"}
    if missing := wanted - set(frame.columns):
        raise InputError(f"{path} is neither a curve nor a request log: it has no column {min(missing)!r}")
    return [_of_log(path, frame)]


def _of_curve(path: str, row: dict[str, float], seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    if not all(value > 0 for value in row.values() if isinstance(value, int | float)):
        raise InputError(f"{path}: the values of a curve are positive, got {row}")
    load = OfferedLoad(
        arrival_s=np.cumsum(rng.exponential(1.0 / row["rate_rps"], CURVE_REQUESTS)),
        input_tokens=np.full(CURVE_REQUESTS, round(row["input_tokens"])),
        output_tokens=np.full(CURVE_REQUESTS, max(2, round(row["output_tokens"]))),
    )
    seen = {"TTFT p50": 1e-3 * row["ttft_ms"], "TPOT p50": 1e-3 * row["tpot_ms"]}
    return Observation(f"{row['rate_rps']:g}/s", load, seen)


def _of_log(path: str, frame: Any) -> Observation:
    rows = frame[(frame["outcome"] == "ok") & (frame["output_tokens"] > 0)].sort_values("sent_s")
    if len(rows) < 20 or not (rows["output_tokens"] > 1).any():
        raise InputError(f"{path} has {len(rows)} complete requests; at least 20 are needed, some of several tokens")
    sent_s = rows["sent_s"].to_numpy(float)
    first_s, last_s = rows["first_token_s"].to_numpy(float), rows["last_token_s"].to_numpy(float)
    outputs = rows["output_tokens"].to_numpy(np.int64)
    tpot_s = np.where(outputs > 1, (last_s - first_s) / np.maximum(1, outputs - 1), np.nan)
    load = OfferedLoad(sent_s, rows["input_tokens"].fillna(rows["asked_input"]).to_numpy(np.int64), outputs)
    return Observation(Path(path).stem, load, figures(load, first_s - sent_s, tpot_s))
