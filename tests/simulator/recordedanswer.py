"""Answers without a server: who keeps which token came when, for tests of what gives them; and the rings that do."""

from __future__ import annotations

import socket
from array import array

import pytest

from fineserve_shapes.simulator.carousel import Carousel
from fineserve_shapes.simulator.engine import Sequence
from fineserve_shapes.simulator.phrase import repeated
from fineserve_shapes.simulator.ring import SWITCH, PlainChunkRing, open_ring


class Recorded:
    """An answer, and its connection, that keeps which token came when; it writes to nowhere, or to `fd`."""

    def __init__(self, tokens: int, fd: int = -1) -> None:
        self.sequence = Sequence(1, tokens)
        self.sequence.answer = self
        self.wire = self
        self.fd = fd
        self.phrase: tuple[bytes, ...] = ()
        self.total = tokens
        self.carousel: Carousel | None = None
        self.ready = iter([b""][:0])
        self.token_s = array("d")
        self.chunk_due_s: list[float] = []
        self.got: list[bytes] = []

    @property
    def tokens(self) -> int:
        if self.carousel is not None:
            self.carousel.catch_up(self)
        return len(self.token_s)

    def write(self, data: bytes) -> None:
        self.write_rest(data)

    def write_rest(self, data: bytes) -> None:
        self.got.append(data)

    def token(self, due_s: float, count: int) -> None:
        assert count == 1
        self.got.append(chunk(self.tokens + 1))
        self.token_s.append(0.0)
        self.chunk_due_s.append(due_s)
        if self.tokens == 1 < self.sequence.output_tokens:
            self.phrase = PHRASE
            self.ready = repeated(PHRASE, range(2, self.sequence.output_tokens))


PHRASE = tuple(b"<%d>" % number for number in range(7))


def chunk(token: int) -> bytes:
    """What a token is written as, from 1."""
    return PHRASE[token % len(PHRASE)]


def nonblocking_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, neither of which blocks."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def use_rings(which: str, patch: pytest.MonkeyPatch) -> None:
    """Let rings be those "in C", without which the test is skipped, or "in Python"."""
    if which == "in Python":
        patch.setenv(SWITCH, "1")
    elif isinstance(open_ring(1.0)[0], PlainChunkRing):
        pytest.skip("the part in C is not built here")
