"""A selector that leaves its waiting to others gives what is readable when they have waited, and tells them until when."""

import math
import selectors
import socket
import time

import pytest

from fineserve_shapes.simulator.waiting import Nap, PacedSelector


def test_others_wait_until_the_timeout_in_its_place() -> None:
    told_s: list[float] = []
    with PacedSelector(told_s.append) as selector:
        before_s = time.perf_counter()
        assert selector.select(60.0) == []
        assert selector.select(0) == []
        assert selector.select(None) == []
        after_s = time.perf_counter()
    assert before_s + 60.0 <= told_s[0] <= after_s + 60.0
    assert before_s <= told_s[1] <= after_s
    assert told_s[2] == math.inf
    assert after_s < before_s + 30.0


def test_what_becomes_readable_while_others_wait_is_given() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, PacedSelector(lambda until_s: theirs.sendall(b"!")) as selector:
        key = selector.register(ours, selectors.EVENT_READ)
        assert selector.select(60.0) == [(key, selectors.EVENT_READ)]


def test_it_waits_itself_where_nobody_else_does() -> None:
    with PacedSelector() as selector:
        before_s = time.perf_counter()
        assert selector.select(0.01) == []
        assert time.perf_counter() >= before_s + 0.009


@pytest.mark.parametrize("for_s", [-1.0, 0.005])
def test_a_nap_ends_at_its_time(for_s: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        until_s = time.perf_counter() + for_s
        Nap(ours.fileno()).until(until_s)
        assert until_s <= time.perf_counter() < until_s + 30.0


@pytest.mark.parametrize("for_s", [60.0, math.inf])
def test_a_nap_ends_when_there_is_something_to_read(for_s: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"!")
        before_s = time.perf_counter()
        Nap(ours.fileno()).until(before_s + for_s)
        assert time.perf_counter() < before_s + 30.0
