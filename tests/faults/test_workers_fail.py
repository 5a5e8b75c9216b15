"""Workers that die, sleep, leave and join in mid-run: no request twice, none lost unsaid."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from accounts import RATE_RPS, account, received, scene, workers_of

SILENT_S = 1.0 + 0.4  # the fence, and what had been sent before the last report


def test_killed_workers_lose_only_what_nobody_can_know_of(tmp_path: Path) -> None:
    """kill -9: unknown is only what was due around the kill or in flight. The others take over the future; where there are
    no others the run ends. A run that cannot tell all is no success."""
    with scene(tmp_path / "one", seconds=5) as one, scene(tmp_path / "all", seconds=30) as lost:
        one.launch(2)
        lost.launch(1)
        one.await_start()
        lost.await_start()
        time.sleep(1.5)
        one.workers[1].kill()
        lost.workers[0].kill()
        done, gone = one.finished(), lost.finished()
        assert one.locust.wait(one.workers[0]).code == 0
    ended = account(one.folder, one.requests)
    assert set(ended) == {"ok", "unknown"}, done.output
    assert 0 < ended["unknown"] <= SILENT_S * RATE_RPS / 2 + 20
    ended = account(lost.folder, lost.requests)
    assert set(ended) == {"ok", "unknown", "unsent"}, gone.output
    assert 0 < ended["unknown"] <= SILENT_S * RATE_RPS + 20
    for end in (done, gone):
        assert end.code == 1
        assert "ledger: " in end.output


def test_a_worker_that_sleeps_for_three_seconds_comes_back_and_tells_all(tmp_path: Path) -> None:
    """SIGSTOP, SIGCONT: what stood as unknown is replaced by its late report, or sent after all."""
    with scene(tmp_path, seconds=7) as run:
        run.begin(2)
        time.sleep(2.0)
        run.workers[0].send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        run.workers[0].send_signal(signal.SIGCONT)
        done = run.finished()
    assert account(tmp_path, run.requests) == {"ok": run.requests}, done.output
    assert done.code == 0
    assert len(workers_of(tmp_path)) == 2


def test_a_worker_that_joins_late_takes_its_share(tmp_path: Path) -> None:
    with scene(tmp_path, seconds=10) as run:
        run.begin(1)
        time.sleep(1.0)
        run.locust.worker()
        done = run.finished()
    assert account(tmp_path, run.requests) == {"ok": run.requests}, done.output
    assert done.code == 0
    assert len(workers_of(tmp_path)) == 2


def test_a_worker_that_is_asked_to_go_gives_back_its_future_and_finishes_its_present(tmp_path: Path) -> None:
    """SIGTERM of a worker, as when a deployment shrinks: nothing is lost, cancelled or unknown."""
    with scene(tmp_path, seconds=6, output_tokens=60) as run:  # answers of 0.65 s
        run.begin(3, "--request-log", tmp_path / "log.jsonl")
        time.sleep(2.0)
        run.workers[0].terminate()
        run.workers[1].send_signal(signal.SIGINT)
        left = [run.locust.wait(worker, 20) for worker in run.workers[:2]]
        assert run.master.poll() is None
        done = run.finished()
    assert account(tmp_path, run.requests) == {"ok": run.requests}, done.output
    assert [process.code for process in left] == [0, 0]
    assert done.code == 0
    assert not list(tmp_path.glob("fineserve-*"))  # the master has their records


def test_the_account_finds_an_index_that_was_sent_twice(tmp_path: Path) -> None:
    """The tests' own tool."""
    log = tmp_path / "truth.jsonl"
    log.write_text('{"request_id": "r-1"}\n{"request_id": "r-1"}\n{"request_id": "q-1"}\n')
    assert received("r", log) == {1: 2}
