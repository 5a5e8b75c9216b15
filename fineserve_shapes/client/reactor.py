"""Reactor: one hub callback that serves every socket with something to read.

A greenlet switch per chunk costs more than all that a client does with the chunk. So streams are read here, in the hub,
and a greenlet wakes up once per request, when its answer has ended.

Where the kernel stamps what comes, a piece need not be read at once: only before the next piece of the same stream. So
sockets are looked at by the clock while answers are awaited, at an interval that follows the gaps between tokens, which
saves most of the waking up. A tick reads few sockets, and the hub goes round between ticks: what is due goes out first.
Without stamps the time of a read is all there is, and every piece wakes the reader. Where answers have lanes (`lanes`),
most of what comes never gets as far as a callback.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent import monkey
from gevent.hub import get_hub

from fineserve_shapes.client.lanes import Lanes, lane_type, open_lanes
from fineserve_shapes.client.readlog import LONGER, SHORTER, ReadLog
from fineserve_shapes.client.receivestamps import keep_stamping
from fineserve_shapes.timer import Alarm, give_way, next_due_s

if TYPE_CHECKING:
    from fineserve_shapes.client._lanes import Lane

logger = logging.getLogger(__name__)

_READABLE = 1  # libev's READ
_EPOLLIN = 1
_READS_PER_TICK, _LANE_READS_PER_TICK = 48, 160
"""Some 0.7 ms, less where something is due before: what is read later has its stamp all the same, what is due has not."""
_LEAST_READS = 8
"""By callbacks, even if something is due."""
_SHORTEST_TICK_S = 0.0005
_LONGEST_TICK_S = 0.005
_TICKS_PER_GAP = 4
_NEAR = 0.1  # to the interval that is wanted, as a share: setting the alarm anew costs a call of the system
_CHECKS_PER_TURN = 500
SWEEP_S = 0.1


_lent: list[Reactor] = []
"""The reactor of this process, once for each of its borrowers."""


def borrow(clock: Callable[[], float]) -> Reactor:
    """The reactor of this process, which all clients share, so that its sockets are read in one go."""
    _lent.append(_lent[0] if _lent else Reactor(clock))
    return _lent[0]


def give_back(reactor: Reactor) -> None:
    """It is needed no more here; the last one closes it."""
    if reactor in _lent:
        _lent.remove(reactor)
        if reactor not in _lent:
            reactor.close()


class WithDeadline(Protocol):
    """Something with deadlines."""

    def check(self, now_s: float) -> None:
        """Give up if a deadline has passed."""


class Reactor:
    """Reads sockets and keeps deadlines for one process. Make it after a fork, not before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stamping = keep_stamping()  # from before the first connection to after the last
        self._epoll = monkey.get_original("select", "epoll")()
        self._readers: dict[int, Callable[[], None]] = {}
        self._takers: dict[int, Callable[[bytes | int, float], None]] = {}
        self._watched: set[WithDeadline] = set()
        self.new_lane = lane_type() if self._stamping is not None else None
        """Makes a lane for `lay`; None where all is to be read by callbacks."""
        self._lanes: Lanes = open_lanes(self._epoll, SHORTER, LONGER)
        self._lanes.emptied_s = clock()
        self._reads_per_tick = _READS_PER_TICK if self.new_lane is None else _LANE_READS_PER_TICK
        self.reads = ReadLog(self._lanes)
        self._alarm: Alarm | None = None
        self._ticking = False
        self._every_s = 0.0  # at what interval the alarm rings by itself
        if self._stamping is not None:
            self._alarm = Alarm(self._tick)
        else:
            self._watcher = get_hub().loop.io(self._epoll.fileno(), _READABLE)  # epoll descriptors can be polled too
            self._watcher.start(self._drain)
        self._sweeper = gevent.spawn(self._sweep)

    @property
    def emptied_s(self) -> float:
        """When all sockets were last known to be empty: what is read now came later."""
        return self._lanes.emptied_s

    @property
    def stamps(self) -> bool:
        """Whether the kernel says when bytes came; else it is the time at which they were read."""
        return self._stamping is not None

    def add(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable or has ended; the callback must not block or switch."""
        self._readers[fd] = on_readable
        self._epoll.register(fd, _EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        if self._readers.pop(fd, None) is not None:
            self.lift(fd)
            self._epoll.unregister(fd)

    def lay(self, fd: int, lane: Lane, on_other: Callable[[bytes | int, float], None]) -> None:
        """Let a lane read the descriptor; call back with whatever it read that is not its own, the number of an error
        included, and when that came."""
        self._takers[fd] = on_other
        self._lanes.lay(fd, lane)

    def lift(self, fd: int) -> None:
        """The descriptor is read by its callback again."""
        if self._takers.pop(fd, None) is not None:
            self._lanes.lift(fd)

    def watch(self, watched: WithDeadline) -> None:
        """Check its deadlines from now on, and look for what it waits for."""
        self._watched.add(watched)
        if self._alarm is not None and not self._ticking:
            self._ticking = True
            self._alarm.set(self._clock() + self._interval_s)

    def unwatch(self, watched: WithDeadline) -> None:
        """Check them no more."""
        self._watched.discard(watched)

    def close(self) -> None:
        """Stop; the sockets are their owners' to close."""
        for fd in list(self._takers):
            self.lift(fd)
        self._readers.clear()  # a connection that is closed after this has nothing to remove
        self._watched.clear()
        self._sweeper.kill(block=False)
        if self._alarm is not None:
            self._alarm.close()
        else:
            self._watcher.stop()
            self._watcher.close()
        self._epoll.close()
        if self._stamping is not None:
            self._stamping.close()

    @property
    def _interval_s(self) -> float:
        return min(max(self.reads.gap_s / _TICKS_PER_GAP, _SHORTEST_TICK_S), _LONGEST_TICK_S)

    def _tick(self) -> None:
        more = self._drain()
        self._ticking = bool(self._watched)
        if self._alarm is None:
            return
        if not self._ticking:
            self._alarm.clear()
            self._every_s = 0.0
        elif more:  # by the hub, not in a loop here: what is due goes out in between
            self._alarm.set(self._clock())
            self._every_s = 0.0
        else:
            every_s = self._interval_s
            if abs(every_s - self._every_s) > _NEAR * self._every_s:
                self._alarm.set(self._clock() + every_s, every_s)
                self._every_s = every_s

    def _drain(self) -> bool:
        """Read what is there; whether there may be more."""
        began_s, due_s = self._clock(), next_due_s()
        found, others = self._lanes.drain(self._reads_per_tick, due_s)
        for number, (fd, data, at_s) in enumerate(others):
            try:
                if data is None and number >= _LEAST_READS and self._clock() >= due_s:
                    found = self._reads_per_tick  # it stays readable
                elif data is None:
                    on_readable = self._readers.get(fd)  # a callback before it may have removed it
                    if on_readable is not None:
                        on_readable()
                else:
                    on_other = self._takers.get(fd)
                    if on_other is not None:
                        on_other(data, at_s)
            except Exception:  # gevent would stop the watcher, and with it every stream of the process
                logger.exception("a connection could not be read; its deadline will end it")
                self.remove(fd)
        if found < self._reads_per_tick:
            self._lanes.emptied_s = began_s
            return False
        return True

    def _sweep(self) -> None:
        while True:
            gevent.sleep(SWEEP_S)
            while not (self._epoll.closed or self._ticking) and self._drain():  # connections that are idle may end
                give_way()
            if self._epoll.closed:  # the end of this greenlet is under way
                return
            for count, watched in enumerate(list(self._watched), 1):
                watched.check(self._clock())
                if count % _CHECKS_PER_TURN == 0:  # ten thousand at once would hold up what is due
                    give_way()
