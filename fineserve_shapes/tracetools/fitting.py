"""Fitting: from a recorded trace to parameters in FineServe's form, and how well they describe it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.tracetools.inspection import Inspector, figure
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.bursts import NBParameters, fit_nb, split_bursts, write_nb
from fineserve_shapes.workload.gammafit import GammaFit, fit_windows, time_resolution_s
from fineserve_shapes.workload.seeds import Purpose, rng
from fineserve_shapes.workload.windows import write_windows

LENGTHS_WRITTEN = 200_000  # pairs, drawn at random from a longer trace
BURST_RESOLUTION_S = 1e-5  # with coarser times, equal ones say more of the clock than of bursts
LEAST_BURST = 1.05  # mean size from which equal times are taken for bursts
MISFIT_SHARE = 0.05  # of windows whose gaps are no gamma at the 1 % level: by chance it would be 1 % or less


@dataclass(slots=True)
class BurstCounts:
    """Arrivals divided into bursts block by block: the last one stays open until the next block.

    within_s: what comes within so many seconds of a burst's first request belongs to it; 0 joins equal times.
    """

    within_s: float
    sizes: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _open: FloatArray = field(default_factory=lambda: np.empty(0))

    def instants(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """When bursts begin, block by block."""
        for times_s in blocks:
            open_s = np.concatenate([self._open, times_s])
            instants_s, sizes = split_bursts(open_s, self.within_s)
            self._open = open_s[len(open_s) - int(sizes[-1]) :]
            if len(instants_s) > 1:
                self.sizes.append(sizes[:-1].astype(np.int32))
                yield instants_s[:-1]
        if len(self._open):
            self.sizes.append(np.array([len(self._open)], dtype=np.int32))
            yield self._open[:1]


@dataclass(slots=True)
class Pairs:
    """Up to `LENGTHS_WRITTEN` pairs of lengths, drawn at random without replacement."""

    rng: np.random.Generator
    keys: FloatArray = field(default_factory=lambda: np.empty(0))
    pairs: IntArray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))

    def add(self, block: Block) -> None:
        """Take a block."""
        self.keys = np.concatenate([self.keys, self.rng.random(len(block))])
        self.pairs = np.concatenate([self.pairs, np.column_stack([block.input_tokens, block.output_tokens])])
        if len(self.keys) > 2 * LENGTHS_WRITTEN:
            self._trim()

    def taken(self) -> IntArray:
        """The pairs, shape (n, 2)."""
        self._trim()
        return self.pairs

    def _trim(self) -> None:
        if len(self.keys) > LENGTHS_WRITTEN:
            held = np.sort(np.argpartition(self.keys, LENGTHS_WRITTEN)[:LENGTHS_WRITTEN])
            self.keys, self.pairs = self.keys[held], self.pairs[held]


@dataclass(frozen=True, slots=True)
class Fit:
    """What was fitted to a trace.

    nb: sizes of bursts, None where there are none. fitted_to: what the gamma gaps lie between, "bursts" or "requests".
    figures: of the trace, as `inspect` gives them.
    """

    gamma: GammaFit
    nb: NBParameters | None
    fitted_to: str
    resolution_s: float
    lengths: IntArray
    figures: dict[str, Any]

    @property
    def misfits(self) -> bool:
        """Whether the gamma model is no good description of the gaps."""
        return self.gamma.misfit_share > MISFIT_SHARE

    def goodness(self) -> dict[str, Any]:
        """How good the fit is, as plain values; None where it cannot be told."""
        own = np.isfinite(self.gamma.ks_stat)
        return {
            "windows": len(self.gamma.windows),
            "windows_with_a_fit": int(own.sum()),
            "misfit_share": float(self.gamma.misfit_share) if own.any() else None,
            "median_ks_stat": float(np.median(self.gamma.ks_stat[own])) if own.any() else None,
            "median_se_log_shape": _median(self.gamma.se_log_shape),
            "median_se_log_scale": _median(self.gamma.se_log_scale),
            "resolution_s": self.resolution_s,
            "gamma_fitted_to": self.fitted_to,
            "nb": None if self.nb is None else {"mean": self.nb.mean, "variance": self.nb.variance,
                                                "ks_stat": self.nb.ks_stat, "ks_pvalue": self.nb.ks_pvalue},
        }  # fmt: skip


def fit(
    blocks: Iterable[Block], *, window_s: float, fitted_to: str = "auto", burst_within_s: float = 0.0, seed: int = 0
) -> Fit:
    """Fit windows, bursts and lengths to the blocks of a plan, in one pass.

    Parameters
    ----------
    fitted_to: what the gamma gaps are taken between: "bursts", "requests", or "auto", which says bursts where at least
        one request in twenty shares the time stamp of another and the clock is fine enough for that to mean something.
    burst_within_s: what makes a burst; 0 is an equal time stamp.
    """
    iterator = iter(blocks)
    head = next(iterator, None)
    if head is None:
        raise InputError("there is no request to fit parameters to")
    resolution_s = time_resolution_s(head.due_s)
    if fitted_to == "auto":
        _, sizes = split_bursts(head.due_s, burst_within_s)
        bursty = resolution_s <= BURST_RESOLUTION_S and float(sizes.mean()) >= LEAST_BURST
        fitted_to = "bursts" if bursty or burst_within_s > 0 else "requests"
    inspector, pairs = Inspector(), Pairs(rng(seed, Purpose.PAIRS_OF_LENGTHS))
    bursts = BurstCounts(burst_within_s)

    def times() -> Iterator[FloatArray]:
        for block in _chained(head, iterator):
            inspector.add(block)
            pairs.add(block)
            yield block.due_s

    gamma = fit_windows(bursts.instants(times()) if fitted_to == "bursts" else times(), window_s, resolution_s)
    nb = fit_nb(np.concatenate(bursts.sizes).astype(np.int64)) if bursts.sizes else None
    if nb is not None and nb.nb_mu <= 1:
        nb = None  # every burst has one request
    return Fit(gamma, nb, fitted_to, resolution_s, pairs.taken(), inspector.result())


def write_fit(found: Fit, folder: Path, name: str, window_s: float) -> list[Path]:
    """Write the parameters below `folder`, which can then be `--parametric-data-root`; the files come back."""
    window = f"{window_s / 60:g}min" if window_s % 60 == 0 else f"{window_s:g}s"
    paths = [folder / "gamma" / f"{name}_gamma_{window}.csv", folder / "lengths" / f"{name}.csv"]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_windows(found.gamma.windows, paths[0])
        with paths[1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["input_length", "output_length"])
            writer.writerows(found.lengths.tolist())
        if found.nb is not None:
            paths.append(folder / "nb" / f"{name}_nb.json")
            paths[-1].parent.mkdir(exist_ok=True)
            write_nb(found.nb, paths[-1])
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror or error} (--out)") from error
    return paths


def write_goodness(report: dict[str, Any], path: Path) -> None:
    """Write how good a fit is."""
    try:
        path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror} (--out)") from error


def text(report: dict[str, Any]) -> str:
    """Goodness of fit for a person: the figures of the trace, and those of a day made from the parameters."""
    goodness, trace, model = report["goodness"], report["trace"], report["model"]
    share = goodness["misfit_share"]
    about = (
        f"{goodness['windows']} windows, gamma gaps between {goodness['gamma_fitted_to']};"
        f" {goodness['windows_with_a_fit']} with a fit of their own, of which"
        f" {figure(None if share is None else 100 * share)} % misfit (KS at the 1 % level)"
    )
    lines = [about, f"{'':<22}{'trace':>12}{'synthetic':>12}"]
    rows = [("rate /s", trace["rate_rps"], model["rate_rps"]), ("CV of gaps", trace["gap_cv"], model["gap_cv"])]
    rows += [
        (f"dispersion at {width} s", trace["dispersion"][width], model["dispersion"][width])
        for width in ("1", "10", "300")
    ]
    for side in ("input", "output"):
        rows += [(f"{side} tokens {q}", trace[f"{side}_tokens"][q], model[f"{side}_tokens"][q]) for q in ("p50", "p99")]
    lines += [f"{name:<22}{figure(left):>12}{figure(right):>12}" for name, left, right in rows]
    if report["misfit"]:
        lines.append(f"the gamma model misfits: {report['misfit']}")
    return "\n".join(lines)


def _chained(head: Block, rest: Iterator[Block]) -> Iterator[Block]:
    yield head
    yield from rest


def _median(values: FloatArray) -> float | None:
    own = values[np.isfinite(values)]
    return float(np.median(own)) if len(own) else None
