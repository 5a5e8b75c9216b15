"""Pieces that stay unread until more has come: read in time all the same, and with times that are known to be close."""

from __future__ import annotations

import errno
import math
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from gevent import monkey
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import END, chunk, tcp_pair
from thorough import examples

from fineserve_shapes.client.lanes import lane_type
from fineserve_shapes.client.receivestamps import StampedSocket, keep_stamping

pytestmark = pytest.mark.skipif(lane_type() is None, reason="the part in C is not built here")

BEFORE, AFTER = b'data: {"text":"', b'"}\n\n'
PIECE = chunk(BEFORE + b" word" + AFTER)
FAR = 10.0  # bounds that are close enough whatever they are
SLACK_S = 0.002  # between a send and its stamp, and between two clocks
READ_AFTER_S = 0.05


@pytest.fixture(autouse=True, scope="module")
def stamps() -> Iterator[None]:
    """The kernel stamps what comes, from the first test to the last."""
    stamping = keep_stamping()
    assert stamping is not None
    time.sleep(0.05)
    yield
    stamping.close()


class Streams:
    """Streams whose pieces come in an order that is known."""

    def __init__(self, count: int, close_s: float, patience: int) -> None:
        from fineserve_shapes.client._lanes import Lane, Lanes

        self.pairs = [tcp_pair() for _ in range(count)]
        self.poll = monkey.get_original("select", "epoll")()
        self.lanes: Any = Lanes(self.poll.fileno(), 0.9, 1.1)
        self.lanes.close_s = close_s
        self.fds = [ours.fileno() for ours, _ in self.pairs]
        self.all: list[Any] = []
        for fd, (ours, _) in zip(self.fds, self.pairs, strict=True):
            StampedSocket(ours)
            self.poll.register(fd, select.EPOLLIN)
            now_s = time.perf_counter()
            self.all.append(Lane(BEFORE, AFTER, 1000, now_s, now_s, now_s, patience + 1))
            self.lanes.lay(fd, self.all[-1])
        self.sent_s: list[list[float]] = [[] for _ in self.pairs]
        for number, lane in enumerate(self.all):  # a first piece is read at once, whatever may be
            self.send(number)
            self.drain()
            assert (lane.unread, len(lane.take()[0])) == (0, 8)
        self.lanes.take_delays()
        assert self.drain() == []  # what comes from now on came after this
        self.sent_s = [[] for _ in self.pairs]

    def send(self, *numbers: int, data: bytes = PIECE) -> None:
        """A piece on each of these streams, one after the other."""
        for number in numbers:
            self.pairs[number][1].sendall(data)
            self.sent_s[number].append(time.perf_counter())
            self._wait_for_it(number)

    def _wait_for_it(self, number: int) -> None:
        select_ = monkey.get_original("select", "select")
        assert select_([self.pairs[number][0]], [], [], 5)[0]

    def drain(self) -> list[Any]:
        """What is Python's: descriptor and bytes."""
        return [other[:2] for other in self.lanes.drain(256, math.inf)[1]]

    def held(self) -> list[int]:
        return [lane.held for lane in self.all]

    def unread(self) -> list[int]:
        return [lane.unread for lane in self.all]

    def between_s(self) -> list[float]:
        return np.frombuffer(self.lanes.take_between()).tolist()


@contextmanager
def streams(count: int, close_s: float = FAR, patience: int = 100) -> Iterator[Streams]:
    made = Streams(count, close_s, patience)
    try:
        yield made
    finally:
        made.poll.close()
        for sock in (sock for ends in made.pairs for sock in ends):
            sock.close()


def test_of_what_came_between_two_only_those_are_read_and_it_has_its_time_by_them():
    with streams(5) as s:
        s.send(0, 1, 2, 3, 4)
        assert s.drain() == []
        assert (s.held(), s.unread()) == ([1, 0, 0, 0, 1], [0, 1, 1, 1, 0])
        widths_s = s.between_s()
        first_s, last_s = (s.all[number].token_s for number in (0, 4))
        assert widths_s == pytest.approx([last_s - first_s] * 3)
        s.send(1, 2, 3)
        assert s.drain() == []
        assert (s.held(), s.unread()) == ([1, 2, 0, 2, 1], [0, 0, 2, 0, 0])
        times_s = [np.frombuffer(s.all[number].take()[0]) for number in (1, 3)]
        assert times_s[0][0] == pytest.approx(first_s + (last_s - first_s) * 1 / 4)
        assert times_s[1][0] == pytest.approx(first_s + (last_s - first_s) * 3 / 4)
        for number, found in zip((1, 3), times_s, strict=True):
            assert abs(found[1] - s.sent_s[number][1]) < SLACK_S
        assert s.lanes.take_unsure() == b""  # all were told apart
        assert len(np.frombuffer(s.lanes.take_delays())) == 4


def test_where_the_bounds_are_far_apart_more_is_read_until_they_are_close():
    with streams(9, close_s=0.012) as s:
        for number in range(9):
            s.send(number)
            time.sleep(0.004)
        assert s.drain() == []
        widths_s = s.between_s()
        assert len(widths_s) == sum(s.unread()) > 0
        assert max(widths_s) <= 0.012
    with streams(9, close_s=0.001) as s:
        for number in range(9):
            s.send(number)
            time.sleep(0.004)
        assert s.drain() == []
        assert (s.held(), s.between_s()) == ([1] * 9, [])


@pytest.mark.parametrize(("close_s", "patience"), [(0.0, 100), (FAR, 0)])
def test_nothing_stays_unread_where_nothing_may(close_s: float, patience: int):
    with streams(4, close_s, patience) as s:
        s.send(0, 1, 2, 3)
        s.drain()
        assert (s.held(), s.unread()) == ([1] * 4, [0] * 4)


def test_the_last_piece_that_is_expected_is_read_at_once():
    with streams(3, patience=2) as s:
        for unread in (1, 2, 0):
            s.send(0, 1, 2)
            s.drain()
            assert s.unread()[1] == unread
        assert s.held()[1] == 3
        s.send(0, 1, 2)
        s.drain()
        assert (s.held()[1], s.unread()[1]) == (4, 0)


def test_no_more_than_three_pieces_of_a_stream_stay_unread():
    with streams(3) as s:
        for unread in (1, 2, 3, 0, 1):
            s.send(0, 1, 2)
            s.drain()
            assert s.unread()[1] == unread
        assert s.held()[1] == 4


def test_what_has_been_unread_for_long_is_read_by_itself():
    with streams(3) as s:
        s.send(0, 1, 2)
        s.drain()
        s.drain()
        assert s.unread() == [0, 1, 0]
        time.sleep(READ_AFTER_S + 0.01)
        assert s.drain() == []
        assert (s.held(), s.unread()) == ([1, 1, 1], [0, 0, 0])


def test_what_is_unread_can_be_read_at_any_time():
    with streams(3) as s:
        s.send(0, 1, 2)
        s.drain()
        assert s.lanes.catch_up(s.fds[1]) == []
        assert (s.held(), s.unread()) == ([1, 1, 1], [0, 0, 0])
        assert s.lanes.catch_up(s.fds[1]) == s.lanes.catch_up(10**6) == []
        s.send(0)
        s.send(1, data=b"something else")
        s.send(2)
        s.drain()
        assert [other[:2] for other in s.lanes.catch_up(s.fds[1])] == [(s.fds[1], b"something else")]


def test_a_lane_that_is_lifted_with_something_unread_leaves_it_readable():
    with streams(3) as s:
        s.send(0, 1, 2)
        s.drain()
        s.lanes.lift(s.fds[1])
        assert s.drain() == s.drain() == [(s.fds[1], None)]


def test_pieces_before_an_end_have_their_own_times_and_the_rest_is_pythons():
    with streams(3) as s:
        s.send(0, 1, 2)
        s.drain()
        time.sleep(0.005)
        s.send(0)
        s.send(1, data=PIECE + END)
        s.send(2)
        s.drain()
        assert s.unread()[1] == 2
        found = s.lanes.catch_up(s.fds[1])
        (fd, data, at_s, _, empty_s) = found[0]
        assert (fd, data, len(found)) == (s.fds[1], END, 1)
        times_s = np.frombuffer(s.all[1].take()[0])
        assert abs(times_s[0] - s.sent_s[1][0]) < SLACK_S
        assert abs(times_s[1] - s.sent_s[1][1]) < SLACK_S
        assert times_s[1] <= at_s
        assert empty_s < times_s[0]
        s.send(1)
        assert s.drain() == [(s.fds[1], PIECE)]  # the lane has ended


def test_pieces_that_came_between_two_looks_are_not_told_apart_and_that_is_told():
    with streams(3) as s:
        s.send(0, 1, 2)
        s.drain()
        s.send(0, 1, 1, 2)
        s.drain()
        s.send(1)
        s.drain()
        assert s.held()[1] == 4
        unsure_s = np.frombuffer(s.lanes.take_unsure())
        assert len(unsure_s) == 1
        times_s = np.frombuffer(s.all[1].take()[0])
        assert unsure_s[0] >= times_s[-1] - times_s[0]


def test_an_end_is_read_at_once_and_so_is_what_came_before_it():
    with streams(3) as s:
        s.send(0, 1)
        s.pairs[1][1].close()
        s.send(2)
        assert s.drain() == []
        assert s.held() == [1, 1, 1]
        assert s.drain() == [(s.fds[1], b"")]
        assert s.drain() == []


def test_what_there_was_no_time_for_is_served_the_next_time():
    with streams(40, patience=0) as s:
        s.send(*range(40))
        found, others = s.lanes.drain(256, 0.0)
        assert (found, others) == (256, [])  # there may be more
        assert 0 < sum(s.held()) < 40
        while s.lanes.drain(256, 0.0)[0] == 256:
            pass
        assert s.held() == [1] * 40


@settings(max_examples=examples(40), deadline=None)
@given(
    st.integers(3, 12),
    st.lists(st.one_of(st.integers(0, 11), st.just("look"), st.just("wait")), max_size=60),
    st.sampled_from([FAR, 0.003, 0.0]),
)
def test_every_piece_has_a_time_within_its_bounds(count: int, steps: list[int | str], close_s: float):
    with streams(count, close_s) as s:
        fresh: set[int] = set()
        for step in steps:
            number = step % count if isinstance(step, int) else None
            if step == "wait":
                time.sleep(0.001)
            elif number is None or number in fresh:
                s.drain()
                fresh.clear()
            if number is not None:
                s.send(number)
                fresh.add(number)
        s.drain()
        assert not [found for fd in s.fds for found in s.lanes.catch_up(fd)]
        width_s = max(s.between_s(), default=0.0)
        assert width_s <= max(close_s, 0.0)
        for lane, sent_s in zip(s.all, s.sent_s, strict=True):
            times_s = np.frombuffer(lane.take()[0])
            assert len(times_s) == len(sent_s)
            assert (np.diff(times_s) >= 0).all()
            off_s = np.abs(times_s - np.array(sent_s))
            assert (off_s <= width_s + SLACK_S).all()
        assert s.lanes.take_unsure() == b""


def test_a_socket_that_is_closed_by_the_server_while_unread_says_so():
    with streams(3) as s:
        s.send(0, 1, 2)
        s.drain()
        assert s.unread()[1] == 1
        s.pairs[1][1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.pairs[1][1].close()
        assert s.drain() == []
        assert s.held()[1] == 1
        assert s.drain() == [(s.fds[1], errno.ECONNRESET)]


def test_pieces_that_are_read_without_a_report_have_the_times_of_theirs():
    """Read since they were unread for long: the last of them has the stamp, the one before its own time."""
    with streams(3) as s:
        for _ in range(2):
            s.send(0, 1, 2)
            s.drain()
            time.sleep(0.01)
        assert s.unread()[1] == 2
        assert s.lanes.catch_up(s.fds[1]) == []
        times_s = np.frombuffer(s.all[1].take()[0])
        assert (np.abs(times_s - np.array(s.sent_s[1])) < SLACK_S).all()


def test_what_is_pythons_among_unread_pieces_has_its_own_times():
    other = chunk(b"data: other\n\n")
    with streams(3) as s:
        for data in (PIECE, other, PIECE):
            s.send(0)
            s.send(1, data=data)
            s.send(2)
            s.drain()
            time.sleep(0.01)
        assert s.unread()[1] == 3
        found = s.lanes.catch_up(s.fds[1])
        assert [read[:2] for read in found] == [(s.fds[1], other), (s.fds[1], PIECE)]
        first_s = np.frombuffer(s.all[1].take()[0])[0]
        for at_s, sent_s in zip((first_s, found[0][2], found[1][2]), s.sent_s[1], strict=True):
            assert abs(at_s - sent_s) < SLACK_S
        assert s.all[1].hasty


def test_a_stream_whose_pieces_come_in_groups_is_read_at_once():
    with streams(3) as s:
        s.lanes.gap_s = 1.0  # looks are much closer to each other
        for unread in (1, 2, 3, 0, 1, 2, 3, 0, 0, 0):
            s.send(0)
            s.send(1, data=2 * PIECE)
            s.send(2)
            s.drain()
            s.lanes.gap_s = 1.0
            assert s.unread()[1] == unread
            time.sleep(0.005)
        assert s.all[1].hasty
        times_s = np.frombuffer(s.all[1].take()[0])
        assert len(times_s) == 20
        assert (np.abs(times_s - np.repeat(s.sent_s[1], 2))[16:] < SLACK_S).all()
        assert len(np.frombuffer(s.lanes.take_unsure())) == 4


def test_pieces_that_waited_for_a_late_look_are_no_group():
    with streams(3) as s:
        for _ in range(4):
            for _ in range(2):
                s.send(0, 1, 2)
                time.sleep(0.005)
            s.lanes.gap_s = 0.005
            s.drain()
        assert s.held()[1] + s.unread()[1] > 0
        assert not any(lane.hasty for lane in s.all)


def test_a_first_group_shows_it_before_anything_stays_unread():
    from fineserve_shapes.client._lanes import Lane

    with streams(3) as s:
        now_s = time.perf_counter()
        s.all[1] = Lane(BEFORE, AFTER, 1000, now_s, now_s, now_s, 100)
        s.lanes.lay(s.fds[1], s.all[1])
        for _ in range(3):
            s.send(0)
            s.send(1, data=2 * PIECE)
            s.send(2)
            s.drain()
            assert s.unread()[1] == 0
        assert s.held()[1] == 6
