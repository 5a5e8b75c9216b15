"""Chunks that are due together, written together: looked up first, then written one after the other.

A chunk costs the kernel some 10 us and Python less than 2, as long as Python's code and data stay in the caches of the
core; after a system call they are cold, and the same work takes several times as long. So next to nothing but writes
stands between writes, and what a chunk touches is kept small.
"""

import os
import time
from collections.abc import Callable, Iterable

from fineserve_shapes.simulator.answers import Answer
from fineserve_shapes.simulator.carousel import LARGEST, Carousel
from fineserve_shapes.simulator.engine import Token

_Burst = list[tuple[Answer, int, bytes, Callable[[float], None]]]
"""Answer, descriptor, chunk, and who keeps the time of the write."""


def write_tokens(tokens: Iterable[Token], carousel: Carousel | None = None) -> None:
    """Hand each token to the answer that waits for it, in order; answers that may go on in a carousel board it."""
    burst: _Burst = []
    for due_s, sequence, count in tokens:
        answer = sequence.answer
        if answer is None:
            continue  # it has gone meanwhile, maybe in the course of these very tokens
        chunk = next(answer.ready, None)
        if chunk is None:
            # whatever this answer does, it does it after its own chunks before
            _write(burst)
            answer.token(due_s, count)
        else:
            answer.chunk_due_s.append(due_s)
            burst.append((answer, answer.wire.fd, chunk, answer.token_s.append))
        if carousel is not None:
            carousel.board(answer, due_s)
        if len(burst) == LARGEST:
            _write(burst)
    _write(burst)


def _write(burst: _Burst) -> None:
    """Write these chunks, keep when each was written, and empty the list."""
    write, clock = os.write, time.perf_counter
    for answer, fd, chunk, keep in burst:
        keep(clock())
        try:
            sent = write(fd, chunk)
        except OSError:
            sent = 0
        if sent != len(chunk):
            answer.wire.write_rest(chunk[sent:])
    burst.clear()
