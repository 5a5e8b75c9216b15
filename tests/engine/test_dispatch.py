"""The dispatcher: what is due leaves, as far as a limit to requests in flight allows."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest

from fineserve_shapes.engine.dispatch import Dispatcher
from fineserve_shapes.leases.holder import LeaseHolder
from fineserve_shapes.leases.lease import Lease, Row
from fineserve_shapes.leases.slots import Limit

SCHEDULING_S = 0.05  # by how much a loaded machine may be late


class Bench:
    """A dispatcher whose requests take 0.1 s; sent: (request, when, held back by)."""

    def __init__(self) -> None:
        self.start_s = time.perf_counter()
        self.holder = LeaseHolder(fenced=False)
        self.sent: list[tuple[int, float, float]] = []
        self.most = 0
        self.leases = 0
        self.dispatcher = Dispatcher(self.holder, lambda row: row.request, self.perform, self.now_s)

    def now_s(self) -> float:
        return time.perf_counter() - self.start_s

    def perform(self, row: Row, prepared: int | None, held_s: float) -> None:
        self.sent.append((row.request, self.now_s(), held_s))
        self.most = max(self.most, self.dispatcher.in_flight)
        gevent.sleep(0.1)

    def lease(self, due_s: list[float]) -> None:
        rows = [Row(at_s, len(self.sent) + i, 1, 1, 0, len(self.sent) + i) for i, at_s in enumerate(due_s)]
        self.dispatcher.add(self.holder.lease(Lease(0, 0.0, 0, self.leases, rows)))
        self.leases += 1


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.dispatcher.drain(0)


def test_without_a_limit_each_leaves_when_it_is_due(bench: Bench) -> None:
    bench.lease([0.05, 0.06, 0.07, 0.2])
    gevent.sleep(0.3)
    assert [request for request, _, _ in bench.sent] == [0, 1, 2, 3]
    for (_, sent_s, held_s), due_s in zip(bench.sent, [0.05, 0.06, 0.07, 0.2], strict=True):
        assert 0 <= sent_s - due_s < SCHEDULING_S
        assert held_s == 0


def test_a_limit_holds_back_and_says_for_how_long(bench: Bench) -> None:
    """Two slots of 0.1 s each: of six that are due at once two leave each tenth of a second."""
    bench.dispatcher.limit(Limit(0, 2))
    bench.lease([0.05] * 6)
    gevent.sleep(0.1)
    assert (bench.dispatcher.load.in_flight, bench.dispatcher.load.waiting) == (2, 4)
    assert bench.dispatcher.take_late_s() < SCHEDULING_S  # to be held back is not to be late
    gevent.sleep(0.35)
    assert bench.most == 2
    for (request, sent_s, held_s), wanted_s in zip(bench.sent, [0, 0, 0.1, 0.1, 0.2, 0.2], strict=True):
        assert held_s == pytest.approx(wanted_s, abs=SCHEDULING_S), request
        assert 0 <= sent_s - 0.05 - held_s < SCHEDULING_S
    assert bench.dispatcher.take_late_s() < SCHEDULING_S


def test_a_limit_can_be_raised_from_nothing_and_an_old_word_is_none(bench: Bench) -> None:
    bench.dispatcher.limit(Limit(1, 0))
    bench.lease([0.05, 0.05])
    gevent.sleep(0.2)
    assert bench.sent == []
    bench.dispatcher.limit(Limit(2, 5))
    bench.dispatcher.limit(Limit(1, 0))
    gevent.sleep(0.05)
    assert [held_s for _, _, held_s in bench.sent] == pytest.approx([0.15, 0.15], abs=SCHEDULING_S)


def test_rows_that_came_after_they_were_due_are_not_this_processs_lateness(bench: Bench) -> None:
    gevent.sleep(0.3)
    bench.lease([0.01, 0.02])
    gevent.sleep(0.05)
    assert len(bench.sent) == 2
    assert bench.dispatcher.take_late_s() < SCHEDULING_S


def test_a_loop_that_stalls_is_this_processs_lateness(bench: Bench) -> None:
    bench.lease([0.05, 0.06])
    gevent.sleep(0)
    end_s = time.perf_counter() + 0.3
    while time.perf_counter() < end_s:
        pass
    assert bench.dispatcher.take_late_s() > 0.15  # the first in line waits
    gevent.sleep(0.02)
    assert bench.dispatcher.take_late_s() > 0.15
    assert bench.dispatcher.take_late_s() == 0.0


def test_a_drain_does_not_wait_for_ever_for_what_it_has_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may take its time to clean up: what is reported at the end must not be lost for that."""
    monkeypatch.setattr("fineserve_shapes.engine.dispatch.KILL_S", 0.1)
    bench, cleaned = Bench(), []

    def perform(row: Row, prepared: int | None, held_s: float) -> None:
        try:
            gevent.sleep(10)
        finally:
            gevent.sleep(0.5)
            cleaned.append(row.request)

    bench.dispatcher._perform = perform
    bench.lease([0.0, 0.0])
    gevent.sleep(0.1)
    began_s = time.perf_counter()
    bench.dispatcher.drain(0)
    assert time.perf_counter() < began_s + 0.4
    assert bench.dispatcher.in_flight == 0
    gevent.sleep(0.7)
    assert sorted(cleaned) == [0, 1]
