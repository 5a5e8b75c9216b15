"""Reactor: one hub callback that serves every socket with something to read.

A greenlet switch per chunk costs more than all that a client does with the chunk. So streams are read here, in the hub,
and a greenlet wakes up once per request, when its answer has ended.

Where the kernel stamps what comes, a piece need not be read at once: only before the next piece of the same stream. So
sockets are looked at by the clock while answers are awaited, at an interval that follows the gaps between tokens, which
saves most of the waking up. A tick is short, and the hub goes round between ticks: what is due goes out first.
Without stamps the time of a read is all there is, and every piece wakes the reader. Where answers have lanes (`lanes`),
most of what comes never gets as far as a callback, and what does was read and stamped before: it waits here for its turn,
in order, while something else is due.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

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
_READS_PER_ROUND, _LANE_READS_PER_ROUND = 48, 160
"""Some 0.7 ms, less where something is due before: what is read later has its stamp all the same, what is due has not."""
_MOST_ROUNDS = 6
"""Before what was read is served, which can wait longer than what is to be read, and other greenlets have their turn."""
_READ_S = 0.0005
"""For so long what came is read even if something is due."""
_SERVE_S = 0.002
"""For so long what was read is served before more is read, less where something is due before."""
_LEAST_SERVE_S, _SERVE_FOR_EACH_S = 0.0003, 0.000005
"""For so long even then, and for so much longer for each that waits: the longer they wait, the fewer connections are idle
again, and new ones are dear."""
_COMPANY, _COMPANY_S = 8, 0.02
"""What was read waits until so many wait or so much time has passed, where nobody needs it at once: code that has just run
is in the processor's caches, and does the same again in a third of the time."""
_LATER_EVERY = 4
"""Of so many that are served one is not the beginning of an answer, if others wait: answers whose events never repeat begin
for ever."""
_MOST_UNSERVED_BYTES = 2**26
"""Of what was read and waits: beyond that the kernel keeps what comes, as it does for a process that is too slow."""
_SHORTEST_TICK_S = 0.0005
_LONGEST_TICK_S = 0.005
_TICKS_PER_GAP = 4
_TICKS_PER_LOOK = 16  # at the gaps, whether they have changed
_NEAR = 0.1  # to the interval that is wanted, as a share: setting the alarm anew costs a call of the system
_CHECKS_PER_TURN = 500
CLOSE_S = 0.0005
"""What comes between two pieces of other streams that are so close may be read later, together with what follows it."""
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


Read = tuple[bytes | int, float, float, float]
"""What was read (or the number of an error), when it came, when it had been read, and when there had last been nothing to
read; all perf_counter."""
OnRead = Callable[[bytes | int, float, float, float], None]


def _size(read: Read) -> int:
    return len(read[0]) if isinstance(read[0], bytes) else 0


class WithDeadline(Protocol):
    """Something with deadlines."""

    def check(self, now_s: float) -> float:
        """Give up if a deadline has passed; when to look next, at the earliest."""


class Reactor:
    """Reads sockets and keeps deadlines for one process. Make it after a fork, not before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stamping = keep_stamping()  # from before the first connection to after the last
        self._epoll = monkey.get_original("select", "epoll")()
        self._readers: dict[int, tuple[Callable[[], None], OnRead | None]] = {}
        self._laid: set[int] = set()
        self._unserved: dict[int, list[Read]] = {}  # by descriptor, in order
        self._unserved_bytes = 0
        self._unread: set[int] = set()  # descriptors without a lane that are readable
        self._new: set[int] = set()  # whose lanes know nothing yet
        self._first: deque[int] = deque()  # of those, which have something unserved
        self._later: deque[int | Callable[[], None]] = deque()  # which others have, or are unread, and calls
        self._served = 0
        self._hurried: set[int] = set()  # what is read of these does not wait
        self._waits_since_s: float | None = None  # the first that is to be served
        self.leisurely = False
        """Whether nothing that is due waits for the end of an answer: what was read may be understood some 20 ms later, and
        pieces of a stream may be read together."""
        self._watched: dict[WithDeadline, float] = {}  # when to look next
        self.new_lane = lane_type() if self._stamping is not None else None
        """Makes a lane for `lay`; None where all is to be read by callbacks."""
        self._lanes: Lanes = open_lanes(self._epoll, SHORTER, LONGER)
        self._lanes.emptied_s = clock()
        self._lanes.close_s = CLOSE_S
        self._reads_per_round = _READS_PER_ROUND if self.new_lane is None else _LANE_READS_PER_ROUND
        self.reads = ReadLog(self._lanes)
        self._alarm: Alarm | None = None
        self._ticking = self._gave_way = False
        self._ticks = 0
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

    def add(self, fd: int, on_readable: Callable[[], None], on_read: OnRead | None = None) -> None:
        """Call back whenever the descriptor is readable or has ended; the callbacks must not block or switch.

        on_read: called with what a lane has read that is not its own.
        """
        self._readers[fd] = on_readable, on_read
        self._epoll.register(fd, _EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; before it is closed. What was read of it and is not served yet is dropped."""
        if self._readers.pop(fd, None) is not None:
            self.lift(fd)
            self._epoll.unregister(fd)
            self._unread.discard(fd)
            self._take_unserved(fd)

    def lay(self, fd: int, lane: Lane, *, knows: bool = True, hurried: bool = False) -> None:
        """Let a lane read the descriptor. knows: the repeats of an answer; what is read by one that knows nothing is served
        before all else, since what is learned of an answer makes reading the rest of it cheap. hurried: it does not wait
        for company."""
        self._laid.add(fd)
        self._unread.discard(fd)
        if knows:
            self._new.discard(fd)
        else:
            self._new.add(fd)
        if hurried:
            self._hurried.add(fd)
        else:
            self._hurried.discard(fd)
        self._lanes.lay(fd, lane)

    def lift(self, fd: int) -> None:
        """The descriptor is read by its callback again."""
        if fd in self._laid:
            self._laid.remove(fd)
            self._new.discard(fd)
            self._hurried.discard(fd)
            self._lanes.lift(fd)

    def serve(self, fd: int) -> None:
        """Hand over now what was read of a descriptor and waits for its turn, and what was left unread."""
        if fd in self._laid:
            for _, data, at_s, read_s, empty_s in self._lanes.catch_up(fd):
                if data is not None:
                    self._keep(fd, (data, at_s, read_s, empty_s))
        reads, callbacks = self._take_unserved(fd), self._readers.get(fd)
        for number, read in enumerate(reads):
            if callbacks is None or callbacks[1] is None or self._readers.get(fd) is not callbacks:  # it was removed
                break
            data, *times_s = read
            # what is served first may have laid a lane, which takes what waited behind it
            if not (number and isinstance(data, bytes) and self._lanes.offer(fd, data, *times_s)):
                self._guarded(fd, callbacks[1], *read)

    def call_later(self, callback: Callable[[], None]) -> None:
        """In the hub, with what has been read by now and waits, and not before what is due; the callback may switch."""
        if self._alarm is None:
            get_hub().loop.run_callback(callback)
        else:
            self._later.append(callback)
            self._tick_at(self._clock())

    def watch(self, watched: WithDeadline) -> None:
        """Check its deadlines from now on, the next time at the next opportunity, and look for what it waits for."""
        self._watched[watched] = 0.0
        self._tick_at(self._clock() + self._interval_s)

    def unwatch(self, watched: WithDeadline) -> None:
        """Check them no more."""
        self._watched.pop(watched, None)

    def close(self) -> None:
        """Stop; the sockets are their owners' to close."""
        for fd in list(self._laid):
            self.lift(fd)
        self._readers.clear()  # a connection that is closed after this has nothing to remove
        self._watched.clear()
        for callback in self._later:
            if not isinstance(callback, int):
                get_hub().loop.run_callback(callback)
        self._first.clear()
        self._later.clear()
        self._unread.clear()
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

    def _tick_at(self, at_s: float) -> None:
        """Begin to tick, if that has stopped."""
        if self._alarm is not None and not (self._ticking or self._epoll.closed):
            self._ticking = True
            self._alarm.set(at_s)

    def _tick(self) -> None:
        self._ticks += 1
        more = self._drain()
        self._ticking = more or bool(self._watched or self._first or self._later)
        if self._alarm is None or self._epoll.closed:  # which what was served may have done
            return
        if not self._ticking:
            self._alarm.clear()
            self._every_s = 0.0
        elif more:  # by the hub, not in a loop here: what is due goes out in between
            self._alarm.set(self._clock())
            self._every_s = 0.0
        elif not self._every_s or self._ticks % _TICKS_PER_LOOK == 0:
            every_s = self._interval_s
            if abs(every_s - self._every_s) > _NEAR * self._every_s:
                self._alarm.set(self._clock() + every_s, every_s)
                self._every_s = every_s

    def _drain(self) -> bool:
        """Read what is there, and serve what was read; whether there may be more of either."""
        due_s = next_due_s()
        if due_s <= self._clock() and not self._gave_way:  # once: a plan that is too fast must not keep all unread
            self._gave_way = True
            return True
        self._gave_way = False
        empty_s = self._read(max(due_s, self._clock() + _READ_S))
        now_s = self._clock()
        if self._is_early(now_s):
            return empty_s is None
        least_s = min(_LEAST_SERVE_S + _SERVE_FOR_EACH_S * len(self._later), _SERVE_S)
        until_s = max(min(due_s, now_s + _SERVE_S), now_s + least_s)
        while self._first or self._later:
            if self._clock() >= until_s:
                return True
            self._served += 1
            later = self._later and (not self._first or self._served % _LATER_EVERY == 0)
            one = self._later.popleft() if later else self._first.popleft()
            if not isinstance(one, int):
                self._guarded(None, one)
                continue
            self.serve(one)
            if one in self._unread:
                self._unread.remove(one)
                self._guarded(one, self._readers[one][0])
        self._waits_since_s = None
        if empty_s is not None:
            self._lanes.emptied_s = empty_s
        return empty_s is None

    def _is_early(self, now_s: float) -> bool:
        """Whether what is to be served waits for more of the like."""
        waiting = len(self._first) + len(self._later)
        if not self.leisurely or self._unread or self._alarm is None or not 0 < waiting < _COMPANY:
            return False
        if not self._hurried.isdisjoint(self._unserved) or self._unserved_bytes >= _MOST_UNSERVED_BYTES:
            return False
        if self._waits_since_s is None:
            self._waits_since_s = now_s
        return now_s - self._waits_since_s < _COMPANY_S

    def _read(self, until_s: float) -> float | None:
        """Let lanes read what there is, for so long at most, and find what has none; when all was last known to be empty
        but for that, None where there may be more."""
        for rounds in range(_MOST_ROUNDS):
            began_s = self._clock()
            if self._unserved_bytes >= _MOST_UNSERVED_BYTES or (rounds and (self._unread or began_s >= until_s)):
                break
            found, others = self._lanes.drain(self._reads_per_round, until_s)
            for fd, data, at_s, read_s, empty_s in others:
                if data is not None:
                    self._keep(fd, (data, at_s, read_s, empty_s))
                elif fd in self._readers and fd not in self._unread:  # what was reported may have been removed since
                    self._unread.add(fd)
                    self._later.append(fd)
            if found < self._reads_per_round:
                if not self._unread:
                    self._lanes.emptied_s = began_s
                return began_s
        return None

    def _keep(self, fd: int, read: Read) -> None:
        reads = self._unserved.get(fd)
        if reads is None:
            self._unserved[fd] = [read]
            (self._first if fd in self._new else self._later).append(fd)
        elif read[0] == reads[-1][0] == b"":  # an end is read again and again
            return
        else:
            reads.append(read)
        self._unserved_bytes += _size(read)

    def _take_unserved(self, fd: int) -> list[Read]:
        reads = self._unserved.pop(fd, [])
        self._unserved_bytes -= sum(map(_size, reads))
        return reads

    def _guarded(self, fd: int | None, callback: Callable[..., None], *given: Any) -> None:
        """gevent would stop the watcher at an exception, and with it every stream of the process."""
        try:
            callback(*given)
        except Exception:
            logger.exception("a connection could not be served")
            if fd is not None:
                self.remove(fd)

    def _sweep(self) -> None:
        while True:
            gevent.sleep(SWEEP_S)
            # connections that are idle may end; without an alarm that wakes the reader by itself
            while self._alarm is not None and not (self._epoll.closed or self._ticking) and self._drain():
                give_way()
            if self._epoll.closed:  # the end of this greenlet is under way
                return
            now_s = self._clock()
            to_check = [watched for watched, next_s in self._watched.items() if next_s <= now_s]
            for count, watched in enumerate(to_check, 1):
                if watched in self._watched:
                    next_s = watched.check(self._clock())
                    if watched in self._watched:  # which it may have ended
                        self._watched[watched] = next_s
                if count % _CHECKS_PER_TURN == 0:  # ten thousand at once would hold up what is due
                    give_way()
