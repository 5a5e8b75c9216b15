"""What a worker leaves behind when nobody takes its reports, and what it does before a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import gevent
import numpy as np
import pytest

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.engine import spool
from fineserve_shapes.engine.loopdelay import EVERY_S
from fineserve_shapes.engine.worker import COLLECT_AT, SWITCH_S, Worker
from fineserve_shapes.leases import messages
from fineserve_shapes.leases.beginning import Beginning
from fineserve_shapes.leases.lease import Lease, Row
from fineserve_shapes.leases.standing import Standing
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.measure.records import Records
from fineserve_shapes.protocol.result import Result


class Performer:
    """Answers at once, with three chunks."""

    def __init__(self) -> None:
        self.warmed: list[str] = []
        self.seen: list[int] = []

    def open(self) -> dict[str, Any]:
        return {}

    def prepare(self, row: Row) -> Any:
        return None

    def perform(self, run: str, row: Row, prepared: Any) -> Result:
        now_s = time.perf_counter()
        self.seen.append(row.request)
        if row.request == 1:
            return Result("http_error", "=HTTP 500", now_s, now_s, status=500)
        times_s = now_s + np.array([0.01, 0.02, 0.03])
        return Result("ok", None, now_s, now_s + 0.03, now_s + 0.01, now_s + 0.01, now_s + 0.03, times_s)

    def warm_up(self, run: str, row: Row) -> Result:
        self.warmed.append(f"{run}-w{row.request}")
        now_s = time.perf_counter()
        return Result("ok" if row.request else "timeout", None if row.request else "slow", now_s, now_s)

    def tokens_come(self) -> dict[int, int]:
        """What came before the run began is none of its tokens."""
        return {0: 40 + 3 * bool(self.seen)}

    def first_tokens(self) -> list[Any]:
        return []

    def take_reads(self) -> Reads:
        return Reads()

    def measured(self, rows: Records, itl_s: FloatArray) -> None:
        pass

    def close(self) -> None:
        pass


class Wire:
    """A worker and what it has sent; its master is this test."""

    def __init__(self, *, logged: bool) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.performer = Performer()
        self.worker = Worker(
            lambda kind, data: self.sent.append((kind, data)), local=False, finished=lambda: None, name="here"
        )
        self.worker.start(self.performer)
        now_s = time.perf_counter()
        self.worker.on_pong({"sent_s": now_s, "master_s": now_s, "machine": "another"})
        begin = Beginning("abc", now_s, 0.0, logged, True, Names()).pack()
        self.worker.on_begin(begin)

    def lease(self, rows: list[Row], batches: int = 0, number: int | None = 0) -> None:
        run = self.worker._run
        assert run is not None
        now_s = run.now_s
        self.worker.on_lease({"run": "abc", **messages.pack_lease(Lease(0, now_s, batches, number, rows))})

    def reports(self) -> list[Any]:
        return [messages.unpack_report(data) for kind, data in self.sent if kind == messages.REPORT]

    @property
    def done(self) -> int:
        """How many requests have been reported."""
        return sum(len(batch.done) for report in self.reports() for batch in report.batches)

    def taken(self, number: int | None = None) -> None:
        """The master has all that was reported."""
        self.lease([], batches=sum(len(report.batches) for report in self.reports()), number=number)

    def delays_s(self) -> FloatArray:
        """How late the loop was, by all reports."""
        found = [Standing.unpack(data).loop_delays_s for kind, data in self.sent if kind == messages.REPORT]
        return np.concatenate([np.empty(0), *found])


def until(condition: Callable[[], object]) -> None:
    """Wait for it: how long that takes is the machine's affair."""
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s
        gevent.sleep(0.01)


ROWS = [Row(0.0, number, 7, 3, 0, number) for number in range(3)]


class Collector:
    """Stands for `gc`; calls: what was asked of it, in order."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def get_threshold(self) -> tuple[int, int, int]:
        return 700, 10, 10

    def set_threshold(self, *thresholds: int) -> None:
        self.calls.append(thresholds)

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # a process that has loaded the whole suite takes a third of a second to collect, in which no test goes on
    monkeypatch.setattr("fineserve_shapes.engine.worker.gc", Collector())


@pytest.fixture
def wired() -> Iterator[Callable[..., Wire]]:
    """Makes wires whose workers end with the test, however that ends."""
    made: list[Wire] = []

    def wired(*, logged: bool) -> Wire:
        made.append(Wire(logged=logged))
        return made[-1]

    yield wired
    for wire in made:
        wire.worker.stop()


def test_a_test_has_few_collections_and_leaves_the_collector_as_it_was(monkeypatch: pytest.MonkeyPatch):
    """The first one collects nothing before it: there is nothing to find among what imports have made."""
    monkeypatch.setattr("fineserve_shapes.engine.worker.gc", collector := Collector())
    wire = Wire(logged=False)
    begun, ended = (COLLECT_AT, 10, 10), ["unfreeze", (700, 10, 10)]
    until(lambda: collector.calls[-1] == "freeze")
    wire.worker.start(wire.performer)
    until(lambda: collector.calls[-2:] == ["collect", "freeze"])
    wire.worker.stop()
    assert collector.calls == [*ended, begun, "freeze", *ended, begun, "collect", "freeze", *ended]


def test_threads_give_way_quickly_during_a_test():
    before_s = sys.getswitchinterval()
    wire = Wire(logged=False)
    until(lambda: sys.getswitchinterval() == pytest.approx(SWITCH_S))
    wire.worker.stop()
    assert sys.getswitchinterval() == before_s > SWITCH_S


@pytest.mark.parametrize("taken", ["nothing", "a part", "all, and then it fell silent"])
def test_a_master_that_is_gone_leaves_all_records_with_the_worker(
    tmp_path: Path, wired: Callable[..., Wire], taken: str
):
    """Also those that it had taken: what it has on its disk is not known here."""
    wire = wired(logged=True)
    wire.lease(ROWS[:2])
    until(lambda: wire.done == 2)
    batches = sum(len(report.batches) for report in wire.reports()) if taken != "nothing" else 0
    wire.lease(ROWS[2:], batches=batches, number=1)
    until(lambda: wire.done == 3)
    if taken.startswith("all"):
        wire.taken()
    wire.worker.stop()  # as when Locust gives the master up
    rows = [json.loads(line) for line in (tmp_path / "fineserve-abc-here.jsonl").read_text().splitlines()]
    assert sorted((row["request_id"], row["outcome"], row["error"]) for row in rows) == [
        ("abc-0", "ok", None), ("abc-1", "http_error", "=HTTP 500"), ("abc-2", "ok", None),
    ]  # fmt: skip
    assert sorted(len(row["token_times_s"]) for row in rows) == [0, 3, 3]


def test_a_worker_that_leaves_waits_for_the_masters_last_word(tmp_path: Path, wired: Callable[..., Wire]):
    wire = wired(logged=True)
    wire.lease(ROWS)
    until(lambda: len(wire.performer.seen) == 3)
    leaving = gevent.spawn(wire.worker.leave, 1.0)
    until(lambda: wire.done == 3)
    gevent.sleep(0.1)
    assert not leaving.ready()
    wire.taken()
    until(leaving.ready)
    wire.worker.stop()
    assert list(tmp_path.iterdir()) == []


def refused(**_: object) -> IO[bytes]:
    raise PermissionError(13, "Permission denied")


def full(**_: object) -> IO[bytes]:
    return open("/dev/full", "wb+")


@pytest.mark.parametrize("disk", [refused, full])
def test_a_disk_that_fails_ends_the_spool_and_loses_no_report(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wired: Callable[..., Wire],
    disk: Callable[..., IO[bytes]],
):
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", disk)
    wire = wired(logged=True)
    wire.lease(ROWS)
    until(lambda: wire.done == 3)
    wire.worker.stop()
    assert caplog.text.count("cannot be kept on disk") == 1


def test_a_worker_that_was_asked_for_nothing_leaves_nothing(tmp_path: Path, wired: Callable[..., Wire]):
    wire = wired(logged=True)
    wire.lease([])
    until(wire.reports)
    wire.worker.stop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("logged", [True, False])
def test_nothing_is_left_where_all_is_confirmed_or_no_log_is_wanted(
    tmp_path: Path, wired: Callable[..., Wire], logged: bool
):
    wire = wired(logged=logged)
    wire.lease(ROWS)
    until(lambda: wire.done == 3)
    if logged:
        wire.taken()
        wire.worker.on_end({"run": "abc"})
    wire.worker.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_report_tells_what_left_what_is_in_flight_and_how_late_the_loop_is(wired: Callable[..., Wire]):
    """The waits between wakings and the delays of these make up the time, as far as it has been reported."""
    begun_s = time.perf_counter()
    wire = wired(logged=False)
    wire.performer.seen.append(0)
    until(lambda: len(wire.delays_s()) >= 4)
    wire.worker.stop()
    data = [data for kind, data in wire.sent if kind == messages.REPORT][-1]
    assert messages.unpack_counts(data, "in_flight") == {}
    assert messages.unpack_counts(data, "tokens_come") == {0: 3}
    delays_s = wire.delays_s()
    assert delays_s.min() >= 0
    assert (EVERY_S + delays_s).sum() <= time.perf_counter() - begun_s


def test_the_warm_up_is_sent_before_the_run_and_reported(wired: Callable[..., Wire]):
    wire = wired(logged=False)
    wire.worker.on_warm_up({"run": "next", "rows": messages.pack_rows(ROWS), "timeout_s": 5.0})
    wire.worker.stop()
    assert sorted(wire.performer.warmed) == ["next-w0", "next-w1", "next-w2"]
    said = [data for kind, data in wire.sent if kind == messages.WARM]
    assert said == [{"run": "next", "requests": 3, "ok": 2, "error": "slow"}]


@pytest.mark.parametrize("counts", [None, 3, [[0]], [[0, -1]], [[40_000, 1]], [[0, 2**31]], [[0, 2**53]], ["ab"]])
@pytest.mark.parametrize("name", ["in_flight", "tokens_come"])
def test_what_are_no_counts_by_stream_is_refused(name: str, counts: object):
    with pytest.raises(messages.MessageError, match=name):
        messages.unpack_counts({name: counts}, name)


def test_a_run_may_have_more_tokens_than_a_worker_has_requests():
    counts = {"tokens_come": [[0, 2**40]]}
    assert messages.unpack_counts(counts, "tokens_come", messages.TOKENS) == {0: 2**40}
    with pytest.raises(messages.MessageError, match="tokens_come"):
        messages.unpack_counts({"tokens_come": [[0, 2**53]]}, "tokens_come", messages.TOKENS)
