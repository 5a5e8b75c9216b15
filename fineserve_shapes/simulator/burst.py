"""Chunks that are due together, written together: looked up first, then written one after the other.

A chunk costs the kernel some 10 us and Python less than 2, as long as Python's code and data stay in the caches of the
core; after a system call they are cold, and the same work takes several times as long. So next to nothing but writes
stands between writes, and what a chunk touches is kept small.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from fineserve_shapes.simulator.answers import Answer
from fineserve_shapes.simulator.engine import Token

LARGEST = 64
"""Chunks that are looked up before the first of them is written: that takes less than 0.1 ms."""

T = TypeVar("T")
_Burst = dict[Answer, tuple[Answer, int, bytes, Callable[[float], None]]]


def write_chunks(
    chunks: Iterable[tuple[T, int, bytes, Callable[[float], None]]], rest: Callable[[T, bytes], None]
) -> None:
    """Write them one after the other, and keep when each was written.

    chunks: whose each is, its descriptor, the chunk, and who keeps the time of the write. rest: gets whose a chunk is that
    its socket has not taken whole, and what is left of it.
    """
    write, clock = os.write, time.perf_counter
    for whose, fd, chunk, keep in chunks:
        keep(clock())
        try:
            sent = write(fd, chunk)
        except OSError:
            sent = 0
        if sent != len(chunk):
            rest(whose, chunk[sent:])


def write_tokens(tokens: Iterable[Token], board: Callable[[Answer, float], None] | None = None) -> None:
    """Hand each token to the answer that waits for it, in order. board: told of each answer and when its token was due."""
    burst: _Burst = {}
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
            if answer in burst:
                _write(burst)  # its connection may not take the chunk before, nor then this one
            answer.chunk_due_s.append(due_s)
            burst[answer] = (answer, answer.wire.fd, chunk, answer.token_s.append)
        if board is not None:
            board(answer, due_s)
        if len(burst) == LARGEST:
            _write(burst)
    _write(burst)


def _write(burst: _Burst) -> None:
    """Write these chunks, and forget them."""
    write_chunks(burst.values(), lambda answer, left: answer.wire.write_rest(left))
    burst.clear()
