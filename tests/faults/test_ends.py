"""Ends of a run: signals, once and twice, the Stop button's kin, slow answers, a master that dies."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from accounts import account, scene

SLOW: dict[str, Any] = {"seconds": 30, "ttft_ms": 300, "itl_ms": 300}  # answers of 1.5 s of few tokens


def test_an_interrupt_drains(tmp_path: Path) -> None:
    """SIGINT or SIGTERM to the master, or Ctrl-C with --processes, where the terminal sends SIGINT to the whole group: what
    is in flight ends, nothing is cancelled, the rest is unsent, the summary is printed, and that is a success."""
    folders = [tmp_path / name for name in ("int", "term", "group")]
    with scene(folders[0], **SLOW) as one, scene(folders[1], **SLOW) as two, scene(folders[2], **SLOW) as group:
        one.launch(2)
        two.launch(2)
        group.launch(2, processes=True)
        for run in (one, two, group):
            run.await_start()
        time.sleep(1.5)
        one.master.send_signal(signal.SIGINT)
        two.master.send_signal(signal.SIGTERM)
        os.killpg(group.master.pid, signal.SIGINT)
        ends = [run.finished() for run in (one, two, group)]
        codes = [run.locust.wait(worker, 10).code for run in (one, two) for worker in run.workers]
    assert codes == [0, 0, 0, 0]
    for run, done in zip((one, two, group), ends, strict=True):
        assert set(account(run.folder, run.requests)) == {"ok", "unsent"}, done.output
        assert done.code == 0
        assert "ledger: " in done.output
        assert "Traceback" not in done.output


def test_a_second_signal_cancels_what_is_in_flight(tmp_path: Path) -> None:
    endless: dict[str, Any] = {"seconds": 30, "itl_ms": 12_000}  # answers of 50 s
    with scene(tmp_path / "term", **endless) as one, scene(tmp_path / "group", **endless) as group:
        one.launch(2, "--drain-timeout", 100)
        group.launch(2, "--drain-timeout", 100, processes=True)
        one.await_start()
        group.await_start()
        for pause_s in (2.0, 0.0):
            one.master.send_signal(signal.SIGTERM)
            os.killpg(group.master.pid, signal.SIGINT)
            time.sleep(pause_s)
        second_s = time.monotonic()
        ends = [run.finished() for run in (one, group)]
        assert time.monotonic() - second_s < 10
    for run, done in zip((one, group), ends, strict=True):
        assert set(account(run.folder, run.requests)) == {"cancelled", "unsent"}, done.output
        assert done.code == 0
        assert "ledger: " in done.output


def test_a_drain_ends_at_its_time_limit_and_what_was_held_back_is_unsent(tmp_path: Path) -> None:
    """Some answers end within the drain, others never do; and where one at a time is allowed, most wait."""
    with (
        scene(tmp_path / "stalls", seconds=20, output_tokens=100, fault="stall=0.3") as stalls,
        scene(tmp_path / "held", seconds=20, output_tokens=46) as held,
    ):
        stalls.launch(2, "-t", "2s", "--drain-timeout", 2)
        held.launch(2, "-t", "2s", "--max-concurrency", 1)
        ends = [run.finished() for run in (stalls, held)]
    assert set(account(stalls.folder, 120)) == {"ok", "cancelled"}, ends[0].output
    ended = account(held.folder, 120)
    assert set(ended) == {"ok", "unsent"}, ends[1].output
    assert ended["ok"] < 8
    assert [done.code for done in ends] == [0, 0]


def test_signals_before_the_start_end_the_wait_for_workers(tmp_path: Path) -> None:
    with scene(tmp_path) as run:
        master = run.locust.master("--headless", "--expect-workers", 2, "--host", run.simulator.url,
                                   "--request-trace-csv", run.trace)  # fmt: skip
        worker = run.locust.worker()
        run.locust.await_output(master, "reported as ready")
        master.terminate()
        assert run.locust.wait(master, 10).code == 1
        assert run.locust.wait(worker, 10).code == 0
        assert "Traceback" not in run.locust.output(master)


def test_workers_survive_a_dead_master_for_a_bounded_time(tmp_path: Path) -> None:
    """kill -9 of the master: what is in flight ends, nothing more is sent than the fence allows, workers exit, and the
    records of all that they have sent are on disk."""
    file = tmp_path / "impatient.py"
    file.write_text(
        "import locust.runners\nlocust.runners.MASTER_HEARTBEAT_TIMEOUT = 6  # 60, were it not a test\n" + _locustfile()
    )
    with scene(tmp_path, seconds=30, output_tokens=100) as run:
        run.processes = [
            run.locust.master("--headless", "--expect-workers", 2, "--host", run.simulator.url,
                              "--request-trace-csv", run.trace, "--request-log", tmp_path / "log.parquet", file=file),
            *(run.locust.worker() for _ in range(2)),
        ]  # fmt: skip
        run.locust.await_output(run.master, "starts with 2 worker(s)")
        time.sleep(3.0)
        run.master.kill()
        killed_s = time.perf_counter()
        ends = [run.locust.wait(worker, 20) for worker in run.workers]
        assert [end.code for end in ends] == [0, 0], ends
        assert all("Traceback" not in end.output for end in ends)
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert max(row["received_s"] for row in rows) < killed_s + 1.5  # the fence, and what a busy machine adds
    assert not any(row["aborted"] for row in rows)
    sent = {row["request_id"] for row in rows}
    assert len(sent) == len(rows)
    left = list(tmp_path.glob("fineserve-*.jsonl"))  # of a Parquet file whose writer was killed nothing can be read
    assert len(left) == 2
    records = [json.loads(line) for path in left for line in path.read_text().splitlines()]
    assert sorted(record["request_id"] for record in records) == sorted(sent)
    assert {record["outcome"] for record in records} == {"ok"}


def _locustfile() -> str:
    from runs import REPLAY

    return REPLAY.read_text().replace("trace = SAMPLE_TRACE", "trace = None")
