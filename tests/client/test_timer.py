"""Sleeping until an absolute time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import gevent
import pytest
from servers import descriptors

from fineserve_shapes.timer import Timer, begins, has_begun, wait_for_a_gap

EARLY_S = 1e-4
LATE_S = 0.05  # for a machine that has other things to do


@pytest.fixture(params=["timerfd", "gevent"])
def timer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Timer]:
    if request.param == "gevent":
        monkeypatch.setattr(sys, "platform", "somewhere else")
    timer = Timer()
    monkeypatch.undo()
    yield timer
    timer.close()


def test_it_wakes_at_the_time_and_never_before(timer: Timer) -> None:
    late_s = []
    for wait_s in (0.0001, 0.0007, 0.0023, 0.011, 0.03) * 4:
        at_s = time.perf_counter() + wait_s
        timer.sleep_until(at_s)
        late_s.append(time.perf_counter() - at_s)
    assert min(late_s) >= -EARLY_S
    assert sorted(late_s)[len(late_s) // 2] < LATE_S


def test_it_is_not_early_after_the_process_was_busy(timer: Timer) -> None:
    """An event loop's idea of now is as old as its last look at the clock."""
    gevent.sleep(0)
    busy_until_s = time.perf_counter() + 0.03
    while time.perf_counter() < busy_until_s:
        pass
    at_s = time.perf_counter() + 0.02
    timer.sleep_until(at_s)
    assert time.perf_counter() >= at_s - EARLY_S


@pytest.mark.parametrize("ago_s", [0.0, 0.5, 1e9])
def test_a_time_that_has_passed_returns_at_once_and_lets_nobody_else_run(timer: Timer, ago_s: float) -> None:
    ran = []
    other = gevent.spawn(ran.append, 1)
    timer.sleep_until(time.perf_counter() - ago_s)
    assert ran == []
    other.join()


def test_others_run_while_it_sleeps(timer: Timer) -> None:
    ticks = []

    def tick() -> None:
        while True:
            ticks.append(1)
            gevent.sleep(0.002)

    other = gevent.spawn(tick)
    timer.sleep_until(time.perf_counter() + 0.05)
    other.kill()
    assert len(ticks) > 3


def test_a_sleep_that_was_killed_leaves_nothing_behind_for_the_next(timer: Timer) -> None:
    sleeper = gevent.spawn(timer.sleep_until, time.perf_counter() + 0.01)
    gevent.sleep(0.002)
    sleeper.kill()
    time.sleep(0.02)  # the killed sleep's time passes without anyone to take it
    at_s = time.perf_counter() + 0.02
    timer.sleep_until(at_s)
    assert -EARLY_S <= time.perf_counter() - at_s < LATE_S


def test_close_gives_the_descriptor_back() -> None:
    before = descriptors()
    timer = Timer()
    timer.sleep_until(time.perf_counter() + 0.001)
    timer.close()
    timer.close()
    assert descriptors() == before


def test_longer_work_waits_until_nothing_is_due_for_so_long() -> None:
    timer = Timer()
    woken_s: list[float] = []
    due_s = [time.perf_counter() + ahead_s for ahead_s in (0.004, 0.008, 0.012)]

    def sleep() -> None:
        for at_s in due_s:
            timer.sleep_until(at_s)
            woken_s.append(time.perf_counter())

    sleeper = gevent.spawn(sleep)
    gevent.sleep(0)
    wait_for_a_gap(0.01, within_s=5.0)
    assert len(woken_s) == 3
    assert time.perf_counter() >= due_s[-1]
    sleeper.join()
    timer.close()


def test_longer_work_lets_others_go_first_and_does_not_wait_for_ever() -> None:
    ran: list[int] = []
    gevent.spawn(ran.append, 1)
    wait_for_a_gap(1.0, within_s=5.0)
    assert ran == [1]
    begins("a request")
    try:
        began_s = time.perf_counter()
        wait_for_a_gap(0.001, within_s=0.05)
        assert time.perf_counter() - began_s >= 0.05
    finally:
        has_begun("a request")
