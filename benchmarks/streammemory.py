"""Memory of a stream in flight: a process with 10,000 at once beside one with 1,000, at the same rate of requests.

The peak of the one less that of the other, over the streams between them, of the whole client: Locust, plan, request log.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.clients import MANY_STREAMS, OURS
from benchmarks.sidebyside import run

FEW_STREAMS = replace(MANY_STREAMS, tokens=3)  # 2.1 s an answer: 1,050 at once


def main() -> None:
    """Print both peaks, and what a stream costs."""
    (few, _), (many, _) = run(OURS, FEW_STREAMS), run(OURS, MANY_STREAMS)
    streams = MANY_STREAMS.streams - FEW_STREAMS.streams
    for load, row in ((FEW_STREAMS, few), (MANY_STREAMS, many)):
        print(f"{load.streams:6,.0f} streams: {row.peak_mb:.0f} MB, {row.answered:.1%} answered in full", flush=True)
    print(f"{1024 * (many.peak_mb - few.peak_mb) / streams:.1f} kB a stream")
