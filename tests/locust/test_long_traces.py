"""Traces with shared prefixes and long ones, in real Locust processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from runs import cluster, outcomes, run_locust, summary_of

from fineserve_shapes.simulator.process import SimulatorProcess
from fineserve_shapes.tracetools.writing import trace_writer

RECORDING = """
import os
from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.users import CompletionUser

class Replay(ReplayShape):
    pass

class Completions(CompletionUser):
    def body(self, request):
        with open(os.environ["PROMPTS"], "ab") as file:
            file.write(b"[%d,%s]\\n" % (request.index, request.prepared.json))
        return super().body(request)
"""


def test_workers_send_prompts_that_share_the_blocks_of_the_trace(tmp_path: Path):
    """Blocks of 512 tokens, through the lease messages: equal ids are equal tokens, whoever sends them."""
    ids = [[7, 8], [7, 8], [7, 9], [], [8]] * 4
    rows = [  # each prompt ends in a block of its own, cut short
        {
            "timestamp": 20 * row,
            "input_length": 512 * len(row_ids or [0, 0]) + 76,
            "output_length": 2,
            "hash_ids": [*row_ids, 100 + row] if row_ids else [],
        }
        for row, row_ids in enumerate(ids)
    ]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recording.py").write_text(RECORDING)
    with (
        SimulatorProcess(ttft_ms=5, itl_ms=1) as simulator,
        cluster(tmp_path, PROMPTS=str(tmp_path / "prompts")) as locust,
    ):
        master = locust.master(
            "--headless", "--only-summary", "--expect-workers", 2, "--host", simulator.url,
            "--request-trace-csv", tmp_path / "trace.jsonl", "--output-file", tmp_path / "out.json",
            file=tmp_path / "recording.py",
        )  # fmt: skip
        locust.worker()
        locust.worker()
        assert locust.wait(master).code == 0, locust.output(master)
    assert outcomes(summary_of(tmp_path / "out.json")) == {"ok": 20}
    prompts = dict(json.loads(line) for line in (tmp_path / "prompts").read_text().splitlines())
    blocks = {
        (row, place): tuple(prompts[row][512 * place : 512 * (place + 1)]) for row in range(20) for place in range(2)
    }
    for row, row_ids in enumerate(ids):
        for place, number in enumerate(row_ids):
            assert blocks[row, place] == next(blocks[r, i.index(number)] for r, i in enumerate(ids) if number in i)
    assert len({blocks[row, 0] for row in range(20)}) == 2 + 4  # those of 7, of 8, and four of rows without ids
    assert len({tuple(prompt[-76:]) for prompt in prompts.values()}) == 20


def test_a_long_trace_is_counted_beside_the_run(tmp_path: Path):
    """300,000 rows, of which eight seconds are replayed; the counts of all are in the log and in the results."""
    path = tmp_path / "long.parquet"
    lengths = {name: pa.array(np.full(300_000, 5)) for name in ("input_length", "output_length")}
    with trace_writer(path) as writer:
        writer.write(np.arange(300_000) / 10, pa.table(lengths))
    with SimulatorProcess(ttft_ms=5, itl_ms=1) as simulator:
        done = run_locust(
            tmp_path, "--host", simulator.url, "--request-trace-csv", path, "--duration", 8,
            "--output-file", tmp_path / "out.json",
        )  # fmt: skip
    assert done.code == 0, done.output
    summary = summary_of(tmp_path / "out.json")
    assert outcomes(summary) == {"ok": 80}
    assert (summary["plan"]["rows"], summary["plan"]["kept"], summary["plan"]["outside_slice"]) == (
        300_000,
        80,
        299_920,
    )
    assert "read to its end: trace long.parquet: 300,000 rows" in done.output
