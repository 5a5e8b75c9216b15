"""One hub callback for every socket."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import gevent
import pytest
from gevent import monkey
from servers import Lab, descriptors, settled

from fineserve_shapes.client.reactor import SWEEP_S, Reactor

_socketpair = monkey.get_original("socket", "socketpair")


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    pairs = [_socketpair() for _ in range(1200)]
    yield pairs
    for pair in pairs:
        for sock in pair:
            sock.close()


Pairs = list[tuple[socket.socket, socket.socket]]


def test_every_readable_socket_is_read_however_many_there_are(lab: Lab, pairs: Pairs) -> None:
    """More than one poll and more than one wake-up can take."""
    got: list[int] = []
    for number, (left, right) in enumerate(pairs):
        lab.reactor.add(right.fileno(), lambda sock=right, number=number: got.append(number) or sock.recv(10))  # type: ignore[misc]
        left.send(b"x")
    assert settled(lambda: len(got) == len(pairs))
    assert sorted(got) == list(range(len(pairs)))


def test_what_is_left_unread_is_called_again(lab: Lab, pairs: Pairs) -> None:
    left, right = pairs[0]
    got: list[bytes] = []
    lab.reactor.add(right.fileno(), lambda: got.append(right.recv(1)))
    left.send(b"abc")
    assert settled(lambda: b"".join(got) == b"abc")


def test_none_is_starved_where_there_is_more_to_do_than_time(lab: Lab, pairs: Pairs) -> None:
    """Each of these is readable again as soon as it was served, and a round of all takes longer than a tick may."""
    counts = Counter[int]()
    called_at: list[int] = []

    def on_readable(number: int) -> None:
        counts[number] += 1
        end_s = time.perf_counter() + 0.0003
        while time.perf_counter() < end_s:
            pass

    for number, (left, right) in enumerate(pairs[:30]):
        lab.reactor.add(right.fileno(), partial(on_readable, number))
        left.send(b"x")
    lab.reactor.watch(Watch(lab.reactor))
    assert settled(lambda: counts.total() > 300)
    lab.reactor.call_later(lambda: called_at.append(counts.total()))
    called_from = counts.total()
    assert settled(lambda: bool(called_at))
    assert called_at[0] - called_from <= 2 * 30
    assert max(counts.values()) <= 2 * min(counts[number] for number in range(30))
    for _, right in pairs[:30]:
        lab.reactor.remove(right.fileno())


def test_a_removed_descriptor_is_not_called_even_when_it_is_in_the_same_poll(lab: Lab, pairs: Pairs) -> None:
    (left_a, right_a), (left_b, right_b) = pairs[:2]
    called = []

    def on_readable(own: socket.socket, other: socket.socket) -> None:
        own.recv(10)
        called.append(own)
        lab.reactor.remove(other.fileno())

    lab.reactor.add(right_a.fileno(), lambda: on_readable(right_a, right_b))
    lab.reactor.add(right_b.fileno(), lambda: on_readable(right_b, right_a))
    left_a.send(b"x")
    left_b.send(b"x")
    assert settled(lambda: len(called) == 1)
    gevent.sleep(2 * SWEEP_S)
    assert len(called) == 1
    lab.reactor.remove(right_a.fileno())
    lab.reactor.remove(right_b.fileno())  # twice is no error


def test_a_callback_that_fails_is_logged_and_dropped_and_the_others_go_on(
    lab: Lab, pairs: Pairs, caplog: pytest.LogCaptureFixture
) -> None:
    """gevent stops a watcher whose callback raises: then no stream of the process would ever be read again."""
    (left_a, right_a), (left_b, right_b) = pairs[:2]
    got: list[bytes] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    lab.reactor.add(right_a.fileno(), fail)
    lab.reactor.add(right_b.fileno(), lambda: got.append(right_b.recv(10)))
    left_a.send(b"x")
    left_b.send(b"y")
    assert settled(lambda: got == [b"y"])
    left_b.send(b"z")
    assert settled(lambda: got == [b"y", b"z"])
    assert [record.exc_text for record in caplog.records if "a bug" in (record.exc_text or "")] != []
    assert len(caplog.records) == 1


def test_a_hangup_is_a_call(lab: Lab, pairs: Pairs) -> None:
    left, right = pairs[0]
    got: list[bytes] = []

    def on_readable() -> None:
        got.append(right.recv(10))
        lab.reactor.remove(right.fileno())

    lab.reactor.add(right.fileno(), on_readable)
    left.close()
    assert settled(lambda: got == [b""])


class Watch:
    """after_s: how long it says that there is nothing to check."""

    def __init__(self, reactor: Reactor, unwatch_after: int = 0, after_s: float = 0.0) -> None:
        self.checked_s: list[float] = []
        self._reactor = reactor
        self._unwatch_after = unwatch_after
        self._after_s = after_s

    def check(self, now_s: float) -> float:
        self.checked_s.append(now_s)
        if len(self.checked_s) == self._unwatch_after:
            self._reactor.unwatch(self)
        return now_s + self._after_s


def test_deadlines_are_checked_until_they_are_watched_no_more(lab: Lab) -> None:
    watches = [Watch(lab.reactor, unwatch_after=2) for _ in range(3)]
    stays = Watch(lab.reactor)
    for watch in (*watches, stays):
        lab.reactor.watch(watch)
    assert settled(lambda: len(stays.checked_s) == 4)
    assert [len(watch.checked_s) for watch in watches] == [2, 2, 2]
    assert abs(stays.checked_s[-1] - time.perf_counter()) < 0.5


def test_a_deadline_is_checked_when_it_may_have_passed_and_when_it_is_watched_anew(lab: Lab) -> None:
    often, seldom = Watch(lab.reactor), Watch(lab.reactor, after_s=4.5 * SWEEP_S)
    lab.reactor.watch(often)
    lab.reactor.watch(seldom)
    assert settled(lambda: len(often.checked_s) == 4)
    assert len(seldom.checked_s) == 1
    lab.reactor.watch(seldom)
    assert settled(lambda: len(often.checked_s) == 6)
    assert len(seldom.checked_s) == 2
    assert settled(lambda: len(seldom.checked_s) == 3)
    assert seldom.checked_s[2] - seldom.checked_s[1] >= 4.5 * SWEEP_S


def test_close_gives_the_descriptors_back_and_later_removals_are_harmless(pairs: Pairs) -> None:
    """What is cancelled at the end of a run may be closed after its reactor."""
    before = descriptors()
    reactor = Reactor(time.perf_counter)
    reactor.add(pairs[0][1].fileno(), lambda: None)
    reactor.close()
    reactor.remove(pairs[0][1].fileno())
    assert descriptors() == before
