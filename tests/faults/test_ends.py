"""Ends of a run: signals, once and twice, the Stop button's kin, slow answers, a master that dies."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from accounts import account, scene

SLOW = {"seconds": 30, "output_tokens": 150}  # answers of 1.5 s


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_master_drains(tmp_path: Path, number: int) -> None:
    """What is in flight ends, the rest is unsent, the summary is printed, and that is a success."""
    with scene(tmp_path, **SLOW) as run:
        run.begin(2)
        time.sleep(2.0)
        run.master.send_signal(number)
        done = run.finished()
        codes = [run.locust.wait(worker, 10).code for worker in run.workers]
    ended = account(tmp_path, run.requests)
    assert set(ended) == {"ok", "unsent"}, done.output
    assert (done.code, codes) == (0, [0, 0])
    assert "ledger: " in done.output
    assert "Traceback" not in done.output


def test_control_c_reaches_every_process_and_cancels_nothing(tmp_path: Path) -> None:
    """--processes: the terminal sends SIGINT to the whole group."""
    with scene(tmp_path, **SLOW) as run:
        run.begin(2, processes=True)
        time.sleep(2.0)
        os.killpg(run.master.pid, signal.SIGINT)
        done = run.finished()
    ended = account(tmp_path, run.requests)
    assert set(ended) == {"ok", "unsent"}, done.output
    assert done.code == 0
    assert "Traceback" not in done.output


@pytest.mark.parametrize("processes", [False, True])
def test_a_second_signal_cancels_what_is_in_flight(tmp_path: Path, processes: bool) -> None:
    with scene(tmp_path, seconds=30, output_tokens=5000) as run:  # answers of 50 s
        run.begin(2, "--drain-timeout", 100, processes=processes)
        time.sleep(1.0)
        for pause_s in (2.0, 0.0):
            if processes:
                os.killpg(run.master.pid, signal.SIGINT)
            else:
                run.master.send_signal(signal.SIGTERM)
            time.sleep(pause_s)
        second_s = time.monotonic()
        done = run.finished()
        assert time.monotonic() - second_s < 8
    ended = account(tmp_path, run.requests)
    assert set(ended) == {"cancelled", "unsent"}, done.output
    assert done.code == 0
    assert "ledger: " in done.output


def test_a_drain_ends_at_its_time_limit(tmp_path: Path) -> None:
    """Some answers end within the drain, others never do."""
    with scene(tmp_path, seconds=20, output_tokens=100, fault="stall=0.3") as run:
        run.begin(2, "-t", "2s", "--drain-timeout", 2)
        done = run.finished()
    ended = account(tmp_path, 120)
    assert set(ended) == {"ok", "cancelled"}, done.output
    assert done.code == 0


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
    """kill -9 of the master: what is in flight ends, nothing more is sent than the fence allows, workers exit."""
    file = tmp_path / "impatient.py"
    file.write_text(
        "import locust.runners\nlocust.runners.MASTER_HEARTBEAT_TIMEOUT = 6  # 60, were it not a test\n" + _locustfile()
    )
    with scene(tmp_path, seconds=30, output_tokens=100) as run:
        run.processes = [
            run.locust.master("--headless", "--expect-workers", 2, "--host", run.simulator.url,
                              "--request-trace-csv", run.trace, file=file),
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
    assert len({row["request_id"] for row in rows}) == len(rows)


def _locustfile() -> str:
    from runs import REPLAY

    return REPLAY.read_text().replace("datasets", "no_datasets")
