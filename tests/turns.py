"""Turns: which tests may run side by side, where several processes run them (`pytest -n`).

Most wait for something most of the time, so more of them run at once than there are cores. A test that holds a measured
tail to the truth needs the machine for itself: it waits until no other test runs, and lets none begin before its end.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOM = Path(__file__)
"""Locked as it stands: together by tests that run side by side, alone by one that does not."""
DOOR = Path(__file__).with_name("conftest.py")
"""Locked by the test that enters, so that one that waits for an empty room is not passed by for ever."""


@contextmanager
def turn(*, alone: bool, rooms: tuple[Path, Path] = (ROOM, DOOR)) -> Iterator[None]:
    """The time of one test. Blocks until it may begin."""
    with rooms[0].open() as room, rooms[1].open() as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        try:
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # outright: a process that was forked meanwhile may hold it too
