"""A reactor with lanes: what is due goes first, what came is read in time, and what was read is served in its order."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gevent
import pytest
from servers import tcp_pair

from fineserve_shapes.client.lanes import lane_type
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.timer import begins, has_begun

pytestmark = pytest.mark.skipif(lane_type() is None, reason="the part in C is not built here")


def knows_nothing() -> Any:
    """A lane that reads, and leaves all to Python."""
    from fineserve_shapes.client._lanes import Lane

    return Lane(b"", b"", 0, 0.0, 0.0, 0.0)


@contextmanager
def laid_in_a_reactor(count: int) -> Iterator[tuple[Reactor, Any, list[tuple[socket.socket, socket.socket]]]]:
    """A reactor whose alarm does not ring, a lane that knows nothing on each of so many connections, and their ends.

    What lanes read is put down in `reactor.served`: the number of the connection, and what was read. That takes the third
    part of what is served even if something is due, by the reactor's clock, which goes on with nothing else."""
    served: list[tuple[Any, ...]] = []
    began_s = time.perf_counter()
    reactor: Any = Reactor(lambda: began_s + 0.00011 * len(served))
    reactor.served = served
    pairs = [tcp_pair() for _ in range(count)]
    try:
        for number, (ours, _) in enumerate(pairs):

            def on_read(*read: object, number: int = number, ours: socket.socket = ours) -> None:
                reactor.served.append((number, *read))
                reactor.lay(ours.fileno(), knows_nothing())

            reactor.add(ours.fileno(), lambda: None, on_read)
            reactor.lay(ours.fileno(), knows_nothing(), knows=False)
        yield reactor, reactor.served, pairs
    finally:
        reactor.close()
        for sock in (sock for ends in pairs for sock in ends):
            sock.close()


@pytest.fixture
def due() -> Iterator[None]:
    """Something is due, and has not begun."""
    begins("a request")
    yield
    has_begun("a request")


def test_what_is_due_goes_first_once_and_then_all_is_read_and_a_little_served(due: None):
    """What was read has its times, however long it waits then, and what came behind it is served with it."""
    with laid_in_a_reactor(12) as (reactor, served, pairs):
        for _, theirs in pairs:
            theirs.sendall(b"first")
        assert reactor._drain()
        assert served == []
        assert reactor._drain()
        assert len(served) == 3
        read_s = time.perf_counter()
        for _, theirs in pairs:
            theirs.sendall(b"second")
        time.sleep(0.02)
        has_begun("a request")
        for _ in range(3):
            reactor._drain()
        order = [(number, data) for number, data, *_ in served]
        assert len(order) == 24
        assert [number for number, data in order if data == b"first"] == list(range(12))
        assert all(order.index((number, b"second")) == order.index((number, b"first")) + 1 for number in range(3, 12))
        assert all(at_s <= came_s <= read_s for _, data, at_s, came_s, _ in served if data == b"first")


def test_what_was_read_is_handed_over_at_once_where_that_is_asked_and_dropped_with_its_descriptor(due: None):
    with laid_in_a_reactor(7) as (reactor, served, pairs):
        for _, theirs in pairs:
            theirs.sendall(b"first")
        reactor._drain()
        reactor._drain()
        assert [number for number, *_ in served] == [0, 1, 2]
        reactor.serve(pairs[5][0].fileno())
        reactor.serve(pairs[5][0].fileno())  # twice is no error
        reactor.remove(pairs[6][0].fileno())
        has_begun("a request")
        assert not reactor._drain()
        assert [number for number, *_ in served] == [0, 1, 2, 5, 3, 4]


def test_what_was_found_unread_is_left_to_a_lane_that_is_laid_meanwhile(due: None):
    with laid_in_a_reactor(6) as (reactor, served, pairs):
        for number, (ours, theirs) in enumerate(pairs):
            reactor.remove(ours.fileno())
            reactor.add(ours.fileno(), partial(served.append, (number, "unread")), lambda *_: served.append(("read",)))
            theirs.sendall(b"first")
        reactor._drain()
        reactor._drain()
        assert served == [(0, "unread"), (1, "unread"), (2, "unread")]
        reactor.lay(pairs[5][0].fileno(), knows_nothing())
        has_begun("a request")
        reactor._drain()
        assert (4, "unread") in served
        assert (5, "unread") not in served


def test_answers_that_never_repeat_leave_a_share_to_what_has_ended(due: None):
    called: list[int] = []
    with laid_in_a_reactor(12) as (reactor, served, pairs):
        for _, theirs in pairs:
            theirs.sendall(b"first")
        for _ in range(3):
            reactor.call_later(lambda: called.append(len(served)))
        for _ in range(12):
            reactor._drain()
        assert called == [3, 6, 9]


def test_answers_that_begin_are_served_first_then_the_rest_and_what_ended_even_if_the_reactor_closes():
    called: list[str] = []
    with laid_in_a_reactor(2) as (reactor, served, pairs):
        pairs[0][1].sendall(b"first")
        assert not reactor._drain()
        pairs[0][1].sendall(b"later")
        reactor._drain()
        assert [data for _, data, *_ in served] == [b"first", b"later"]
        reactor.call_later(lambda: called.append(f"after {len(served)}"))
        pairs[0][1].sendall(b"last")
        pairs[1][1].sendall(b"first")
        reactor._drain()
        assert [(number, data) for number, data, *_ in served[2:]] == [(1, b"first"), (0, b"last")]
        assert called == ["after 3"]
        reactor.call_later(lambda: called.append("at the end"))
    gevent.sleep(0)
    assert called == ["after 3", "at the end"]


def test_what_was_read_waits_for_company_where_nobody_waits_for_it():
    with laid_in_a_reactor(9) as (reactor, served, pairs):
        reactor.leisurely = True
        pairs[0][1].sendall(b"alone")
        while not reactor._unserved:
            assert not reactor._drain()
        assert not reactor._drain()
        assert served == []
        for _, theirs in pairs[1:8]:
            theirs.sendall(b"company")
        until_s = time.perf_counter() + 5
        while len(served) < 8 and time.perf_counter() < until_s:
            reactor._drain()
        assert [number for number, *_ in served] == list(range(8))
        assert reactor._waits_since_s is None


def test_what_was_read_waits_no_longer_than_so_long():
    with laid_in_a_reactor(1) as (reactor, served, pairs):
        reactor.leisurely = True
        now_s = time.perf_counter()
        reactor._clock = lambda: now_s
        pairs[0][1].sendall(b"alone")
        while not reactor._unserved:
            reactor._drain()
        now_s += 0.019
        reactor._drain()
        assert served == []
        now_s += 0.002
        reactor._drain()
        assert len(served) == 1


def test_whoever_has_no_lane_is_not_made_to_wait():
    with laid_in_a_reactor(2) as (reactor, served, pairs):
        reactor.leisurely = True
        reactor.lift(pairs[1][0].fileno())
        for _, theirs in pairs:
            theirs.sendall(b"either")
        until_s = time.perf_counter() + 5
        while not served and time.perf_counter() < until_s:
            reactor._drain()
        assert [number for number, *_ in served] == [0]


def test_a_reactor_goes_on_ticking_for_what_waits():
    """Although no answer is awaited: it is served all the same."""
    with laid_in_a_reactor(1) as (reactor, served, pairs):
        reactor.leisurely = True
        reactor._clock = time.perf_counter
        pairs[0][1].sendall(b"alone")
        until_s = time.perf_counter() + 5
        while not served and time.perf_counter() < until_s:
            gevent.sleep(0.01)
        assert len(served) == 1


def test_what_was_reported_of_a_connection_that_is_gone_is_passed_over():
    """There was no time to serve it, and then it was closed."""
    with laid_in_a_reactor(60) as (reactor, _, pairs):
        for _, theirs in pairs:
            theirs.sendall(b"first")
        time.sleep(0.01)
        reactor._lanes.drain(160, 0.0)
        for ours, _ in pairs:
            reactor.remove(ours.fileno())
        for _ in range(5):
            reactor._drain()
        assert not reactor._drain()


def test_a_hurried_one_does_not_wait_for_company():
    with laid_in_a_reactor(1) as (reactor, served, pairs):
        reactor.leisurely = True
        reactor.lay(pairs[0][0].fileno(), knows_nothing(), knows=False, hurried=True)
        pairs[0][1].sendall(b"hurry")
        while not reactor._unserved and not served:
            reactor._drain()
        assert len(served) == 1


def test_whoever_is_read_by_python_has_doubt_until_then(monkeypatch: pytest.MonkeyPatch):
    """Nothing is known to be empty before it has been read."""
    monkeypatch.setenv("FINESERVE_NO_LANES", "1")
    reactor: Any = Reactor(time.perf_counter)
    ours, theirs = tcp_pair()
    seen: list[float] = []
    try:
        reactor.add(ours.fileno(), lambda: seen.append(reactor.emptied_s))
        reactor._drain()
        sent_s = time.perf_counter()
        theirs.sendall(b"first")
        until_s = time.perf_counter() + 5
        while not seen and time.perf_counter() < until_s:
            reactor._drain()
        ours.recv(10)
        assert seen[0] <= sent_s + 0.001
        before_s = time.perf_counter()
        time.sleep(0.03)
        theirs.sendall(b"second")
        time.sleep(0.01)
        reactor._drain()
        assert seen[1] <= before_s
    finally:
        reactor.close()
        ours.close()
        theirs.close()
