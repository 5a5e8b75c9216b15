"""Reading ahead in a thread: a trace is parsed without holding up what is due."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

from gevent.threadpool import ThreadPool

T = TypeVar("T")


def prefetched(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items; the next one is made in a thread while the last one is used. Waits cooperatively.

    Close it where it is left before its end: its thread must not outlive the run.
    """
    pool = ThreadPool(1)
    try:
        coming = pool.spawn(next, items, None)
        while (item := coming.get()) is not None:
            coming = pool.spawn(next, items, None)
            yield item
    finally:
        pool.kill()
