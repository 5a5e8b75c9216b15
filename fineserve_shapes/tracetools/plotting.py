"""Plotting: a trace as pictures: rate over time, gaps, lengths."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.tracetools.inspection import text
from fineserve_shapes.workload.block import Block

ENDINGS = (".png", ".html")
_BINS = 400  # over the whole span
_GAP_EDGES_S = np.logspace(-6, 4, 201)
_LENGTH_EDGES = np.unique(np.round(np.logspace(0, 6, 121)))
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{name}</title>
<style>body {{ font-family: sans-serif; max-width: 75em; margin: 2em auto }} svg {{ max-width: 100%; height: auto }}</style>
<h1>{name}</h1>
{picture}
<pre>{figures}</pre>
"""


def checked(path: Path) -> Path:
    """The path, if a picture can be written there. Raises InputError."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: a picture is a file whose name ends in {' or '.join(ENDINGS)} (--plot)")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written: no such directory, or it is one (--plot)")
    return path


class Plotter:
    """Counts what the pictures show while blocks go by, in memory that hardly grows: a number for each second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: list[FloatArray] = []
        self._gaps = np.zeros(len(_GAP_EDGES_S) - 1)
        self._zero_gaps = 0
        self._lengths = {side: np.zeros(len(_LENGTH_EDGES) - 1) for side in ("input", "output")}
        self._last_s: float | None = None

    def seen(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks."""
        for block in blocks:
            seconds, counts = np.unique(np.floor(block.due_s), return_counts=True)
            self._seconds.append(np.column_stack([seconds, counts]))
            gaps_s = np.diff(block.due_s, prepend=block.due_s[0] if self._last_s is None else self._last_s)
            self._zero_gaps += int((gaps_s < _GAP_EDGES_S[0]).sum())
            self._gaps += np.histogram(gaps_s, _GAP_EDGES_S)[0]
            self._last_s = float(block.due_s[-1])
            self._lengths["input"] += np.histogram(block.input_tokens, _LENGTH_EDGES)[0]
            self._lengths["output"] += np.histogram(block.output_tokens, _LENGTH_EDGES)[0]
            yield block

    def write(self, path: Path, report: dict[str, Any]) -> None:
        """Draw the pictures beside the figures of `report`. Raises InputError where the file cannot be written."""
        from matplotlib.figure import Figure  # without pyplot: no window system, no state

        figure = Figure(figsize=(11, 7), layout="constrained")
        rate, gaps, lengths, cumulative = figure.subplots(2, 2).ravel()
        span_s = max(report["span_s"], 1.0)
        per_s = np.concatenate(self._seconds)
        width_s = max(span_s / _BINS, 1.0)
        counts, edges = np.histogram(per_s[:, 0], np.arange(0, span_s + width_s, width_s), weights=per_s[:, 1])
        unit, name = (3600.0, "hours") if span_s > 2 * 3600 else (60.0, "minutes") if span_s > 120 else (1.0, "seconds")
        rate.stairs(counts / width_s, edges / unit)
        rate.set(
            title=f"rate, {width_s:.3g}-s bins", xlabel=f"{name} from the start", ylabel="requests/s", ylim=(0, None)
        )
        total = self._gaps.sum() + self._zero_gaps
        gaps.stairs(1 - (np.cumsum(self._gaps) + self._zero_gaps) / total, _GAP_EDGES_S, label="trace", baseline=None)
        mean_s = report["span_s"] / max(report["requests"] - 1, 1)
        if mean_s > 0:
            gaps.plot(_GAP_EDGES_S, np.exp(-_GAP_EDGES_S / mean_s), "--", linewidth=1, label="Poisson at the mean rate")
        gaps.set(
            title="gaps between arrivals", xlabel="seconds", ylabel="share that is longer", xscale="log", ylim=(0, 1)
        )
        gaps.legend()
        for side, counted in self._lengths.items():
            share = counted / counted.sum()
            lengths.stairs(share, _LENGTH_EDGES, label=side)
            cumulative.stairs(np.cumsum(share), _LENGTH_EDGES, label=side, baseline=None)
        lengths.set(title="lengths", xlabel="tokens", ylabel="share", xscale="log")
        cumulative.set(title="lengths, cumulative", xlabel="tokens", ylabel="share up to", xscale="log", ylim=(0, 1))
        longest = max(report["input_tokens"]["max"], report["output_tokens"]["max"])
        for axes in (lengths, cumulative):
            axes.set_xlim(1, 2 * longest)
            axes.legend()
        figure.suptitle(report["name"])
        try:
            if path.suffix.lower() == ".png":
                figure.savefig(path, dpi=120)
            else:
                svg = io.StringIO()
                figure.savefig(svg, format="svg")
                picture = svg.getvalue()
                page = _PAGE.format(
                    name=html.escape(report["name"]),
                    picture=picture[picture.index("<svg") :],
                    figures=html.escape(text(report)),
                )
                path.write_text(page, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error} (--plot)") from error
