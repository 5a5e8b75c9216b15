"""Tables in CSV beside Locust's own: exact figures by stream, and the series."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fineserve_shapes.measure.totals import LATENCIES

STATISTICS = ("count", "mean_ms", "std_ms", "min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """`Tally.table` as rows of `stream` ("total", then each by its name), `metric`, and its statistics in milliseconds."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("stream", "metric", *STATISTICS))
        for stream, entry in [("total", table["total"]), *table["streams"].items()]:
            for metric in (*LATENCIES, "lag"):
                writer.writerow((stream, metric, *(_cell(entry[metric][name]) for name in STATISTICS)))


def write_history(path: Path, series: Mapping[str, Any]) -> None:
    """`Series.as_dict` as rows of `start_s`, `width_s`, `stream` and its columns; `ttft_p50_ms` and so on."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = [*series["counts"], *(f"{name}_{part}" for name in series["quantities"]
                                      for part in series["total"][name])]  # fmt: skip
        writer.writerow(("start_s", "width_s", "stream", *names))
        for stream, columns in [("total", series["total"]), *series["streams"].items()]:
            for start_s, width_s, *row in zip(
                series["start_s"], series["width_s"], *_flat(series, columns), strict=True
            ):
                writer.writerow((start_s, width_s, stream, *map(_cell, row)))


def _flat(series: Mapping[str, Any], columns: Mapping[str, Any]) -> Iterator[list[Any]]:
    for name in series["counts"]:
        yield columns[name]
    for name in series["quantities"]:
        yield from columns[name].values()


def _cell(value: float | None) -> str | float:
    """Nothing for what was not measured; six digits are more than there are."""
    return "" if value is None else value if isinstance(value, int) else f"{value:.6g}"
