"""Traces of the published size: time to the first request, rows per second, peak memory, beside plain pandas.

A FineServe CSV of 18 million rows is written, converted with `fineserve trace convert`, and read from start to end by
processes of their own, so that each figure has its own peak memory. Needs some 2 GB of disk in the temporary directory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

ROWS = 18_000_000
PART_ROWS = 1_000_000
DAY_S = 86_400.0

_MEASURED = """
import json, resource, sys, time
clock, cpu = time.perf_counter, time.process_time
begun, imported_from = clock(), cpu()
path = sys.argv[1]
{imports}
imported = clock() - begun
begun = clock()
{first}
first = clock() - begun
begun, busy = clock(), cpu()
{whole}
print(json.dumps({{"import_s": imported, "first_s": first, "whole_s": clock() - begun, "cpu_s": cpu() - busy,
                  "rows": rows, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}}))
"""
_OURS = _MEASURED.format(
    imports="from fineserve_shapes.workload.replay import open_trace, trace_plan",
    first="trace = open_trace(path)\nplan = trace_plan(trace)\nnext(iter(plan))",
    whole="rows = sum(len(block) for block in plan)",
)
_PANDAS = _MEASURED.format(
    imports="import pandas",
    first="pass",
    whole="rows = len(pandas.read_csv(path, usecols=['timestamp', 'input_length', 'output_length'],"
    " dtype={'timestamp': 'float64', 'input_length': 'int64', 'output_length': 'int64'}))",
)


def write_csv(path: Path, rows: int) -> None:
    """A day in the published form: exponential gaps, lognormal lengths, microseconds."""
    rng = np.random.default_rng(0)
    now_s = 0.0
    with path.open("wb") as file:
        file.write(b"input_length,output_length,latency,timestamp,architecture,scale\n")
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
        for first in range(0, rows, PART_ROWS):
            n = min(PART_ROWS, rows - first)
            times_s = now_s + np.cumsum(rng.exponential(DAY_S / rows, n))
            now_s = float(times_s[-1])
            columns = {
                "input_length": np.rint(rng.lognormal(6.8, 1.1, n)).astype(np.int64) + 1,
                "output_length": np.rint(rng.lognormal(5.0, 1.2, n)).astype(np.int64) + 1,
                "latency": np.round(rng.random(n), 4),
                "timestamp": np.rint(1e6 * times_s).astype(np.int64),
            }
            labels = {"architecture": pa.repeat("Dense", n), "scale": pa.repeat("<10B", n)}
            pyarrow.csv.write_csv(pa.table(columns | labels), file, options)


def measured(script: str, path: Path) -> dict[str, float]:
    """What a process prints that runs the script."""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Write, convert, read; print a line for each way."""
    with tempfile.TemporaryDirectory(prefix="fineserve-bench-") as folder:
        path, columnar = Path(folder) / "day.csv", Path(folder) / "day.parquet"
        write_csv(path, ROWS)
        print(f"{ROWS:,} rows, {path.stat().st_size / 1e6:,.0f} MB of CSV")
        begun_s = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "fineserve_shapes.cli", "trace", "convert", str(path), "--out", str(columnar)],
            check=True, capture_output=True,
        )  # fmt: skip
        took_s = time.perf_counter() - begun_s
        print(f"converted in {took_s:.1f} s to {columnar.stat().st_size / 1e6:,.0f} MB of Parquet\n")
        print(f"{'':<18}{'import s':>10}{'first block s':>15}{'whole s':>10}{'CPU s':>8}{'rows/s':>14}{'peak MB':>10}")
        ways = (("ours, CSV", _OURS, path), ("ours, Parquet", _OURS, columnar), ("pandas.read_csv", _PANDAS, path))
        for name, script, file in ways:
            found = measured(script, file)
            assert found["rows"] == ROWS
            first = "" if script is _PANDAS else f"{found['first_s']:.3f}"
            print(
                f"{name:<18}{found['import_s']:>10.2f}{first:>15}{found['whole_s']:>10.2f}{found['cpu_s']:>8.2f}"
                f"{ROWS / found['whole_s']:>14,.0f}{found['peak_mb']:>10,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
