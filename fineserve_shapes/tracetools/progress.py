"""Progress: a line on stderr for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

FIRST_S = 1.0
EVERY_S = 2.0  # where each line stays; a terminal's line is written anew

T = TypeVar("T", bound=Sized)


def counted(blocks: Iterable[T], what: str) -> Iterator[T]:
    """The same blocks; says on stderr how many rows have gone by, from the first second on."""
    terminal = sys.stderr.isatty()
    rows, started_s = 0, time.monotonic()
    next_s, shown = started_s + FIRST_S, False
    for block in blocks:
        yield block
        rows += len(block)
        if time.monotonic() >= next_s:
            print(f"{what}: {rows:,} rows", end="\r" if terminal else "\n", file=sys.stderr, flush=True)
            next_s, shown = time.monotonic() + (0.2 if terminal else EVERY_S), True
    if shown:
        took_s = time.monotonic() - started_s
        print(f"{what}: {rows:,} rows in {took_s:.1f} s", file=sys.stderr, flush=True)
