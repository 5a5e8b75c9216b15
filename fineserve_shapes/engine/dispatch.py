"""Dispatcher: rows that are leased become requests, each at its due time and whatever became of the others."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event

from fineserve_shapes.leases.holder import LeaseHolder
from fineserve_shapes.leases.lease import Row
from fineserve_shapes.leases.slots import NO_LOAD, Limit, Load
from fineserve_shapes.timer import Timer, begins, give_way, has_begun, next_due_s

logger = logging.getLogger(__name__)

PREPARE_AHEAD_S = 1.0
KILL_S = 5.0
_PREPARE_AT_ONCE_S = 0.001
_WAKE_EARLY_S = 0.02  # rows that come in the meantime may be due sooner


class Dispatcher:
    """Sends what a LeaseHolder holds, open loop, unless told to have no more than so many in flight.

    prepare: makes what a row needs (its prompt), up to a second ahead of its due time. perform: sends it, in a greenlet
    of its own, with what was prepared (None where there was no time) and how long it was held back by the limit, seconds.
    now_s: the run's time.
    """

    def __init__(
        self,
        holder: LeaseHolder,
        prepare: Callable[[Row], Any],
        perform: Callable[[Row, Any, float], None],
        now_s: Callable[[], float],
    ) -> None:
        self._holder = holder
        self._prepare, self._perform = prepare, perform
        self._now_s = now_s
        self._unprepared: list[Row] = []
        self._prepared: dict[int, Any] = {}
        self._came_s: dict[int, float] = {}  # rows that were due before they came, until they are sent
        self._late_s = 0.0
        self._sent = 0
        self._limit: Limit | None = None
        self._freed = Event()  # there may be a slot again
        self._freed.set()
        self._freed_s = float("-inf")  # when one was last found after there had been none
        self._woken = Event()
        self._has_unprepared = Event()
        self._requests: set[gevent.Greenlet] = set()
        self._unbegun = 0  # requests that were sent on their way, whose greenlets have not begun
        self._greenlets = [gevent.spawn(self._dispatch), gevent.spawn(self._prepare_ahead)]

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return len(self._requests)

    def add(self, rows: Sequence[Row]) -> None:
        """Rows have been leased (and are in the holder)."""
        if rows:
            now_s = self._now_s()
            for row in rows:
                heapq.heappush(self._unprepared, row)
                if row.due_s < now_s:
                    self._came_s[row.request] = now_s
            self._has_unprepared.set()
            self._woken.set()

    @property
    def load(self) -> Load:
        """What the master wants to know where requests in flight are limited."""
        limit = self._limit
        if limit is None:
            return NO_LOAD
        waiting = self._holder.due(self._now_s()) if self._full else 0
        return Load(limit.number, self.in_flight, waiting)

    def limit(self, limit: Limit | None) -> None:
        """Have no more than so many in flight from now on; an older word than the last is none."""
        if limit is not None and (self._limit is None or limit.number > self._limit.number):
            self._limit = limit
            self._free()

    def take_late_s(self) -> float:
        """How late rows have left since the last call, on average, and at least how long the first in line waits.

        By this process's doing: from when a row was due, or came if that was later.
        """
        sent, late_s = self._sent, self._late_s
        self._sent, self._late_s = 0, 0.0
        due_s = self._holder.next_due_s
        waiting_s = 0.0 if due_s is None or self._came_s or self._full else self._now_s() - max(due_s, self._freed_s)
        return max(late_s / max(sent, 1), waiting_s, 0.0)

    def drain(self, timeout_s: float) -> None:
        """Send nothing more; wait so long for what is in flight, then cancel it. May be called again, to cut it short."""
        gevent.killall(self._greenlets)
        self._greenlets = []
        self._holder.void()
        try:
            if timeout_s > 0:
                gevent.joinall(list(self._requests), timeout=timeout_s)
            with gevent.Timeout(KILL_S, False):  # what still goes on then is left to itself
                gevent.killall(list(self._requests))
        finally:
            self._requests.clear()  # those that were killed before they had begun
            has_begun(self)

    def _dispatch(self) -> None:
        timer = Timer()
        try:
            while True:
                due_s = self._holder.next_due_s
                if due_s is None:
                    self._prepared.clear()  # of rows that were given back
                    self._came_s.clear()
                    self._woken.clear()
                    self._woken.wait()
                    continue
                wait_s = due_s - self._now_s()
                if wait_s > _WAKE_EARLY_S:
                    self._woken.clear()
                    self._woken.wait(wait_s - _WAKE_EARLY_S / 2)
                    continue
                timer.sleep_until(time.perf_counter() + due_s - self._now_s())
                while not self._full and (row := self._holder.take_due(now_s := self._now_s())) is not None:
                    self._send(row, now_s)
                if self._full:
                    self._freed.clear()
                    self._freed.wait()
        finally:
            timer.close()

    @property
    def _full(self) -> bool:
        return self._limit is not None and self.in_flight >= self._limit.limit

    def _send(self, row: Row, now_s: float) -> None:
        held_s = max(self._freed_s - row.due_s, 0.0)
        self._late_s += now_s - max(self._came_s.pop(row.request, row.due_s), row.due_s + held_s)
        self._sent += 1
        self._unbegun += 1
        begins(self)
        self._requests.add(gevent.spawn(self._begin, row, self._prepared.pop(row.request, None), held_s))

    def _begin(self, row: Row, prepared: Any, held_s: float) -> None:
        self._unbegun -= 1
        if not self._unbegun:
            has_begun(self)
        try:
            self._perform(row, prepared, held_s)
        finally:
            self._requests.discard(gevent.getcurrent())
            self._free()

    def _free(self) -> None:
        if not self._freed.is_set() and not self._full:
            self._freed_s = self._now_s()
            self._freed.set()

    def _prepare_ahead(self) -> None:
        since_s = time.perf_counter()
        while True:
            if not self._unprepared:
                self._has_unprepared.clear()
                self._has_unprepared.wait()
            early_s = self._unprepared[0].due_s - PREPARE_AHEAD_S - self._now_s()
            if early_s > 0:
                gevent.sleep(min(early_s, PREPARE_AHEAD_S / 4))
                continue
            row = heapq.heappop(self._unprepared)
            if row.due_s > self._now_s():  # else it is sent already, or about to be
                try:
                    self._prepared[row.request] = self._prepare(row)
                except Exception:
                    logger.exception("request %d could not be prepared ahead of time", row.request)
            now_s = time.perf_counter()
            if now_s - since_s > _PREPARE_AT_ONCE_S or now_s >= next_due_s():
                give_way()
                since_s = time.perf_counter()
