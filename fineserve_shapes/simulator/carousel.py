"""Streams of the constant schedule on their way: their engine has handed them over, and a ring writes their chunks."""

import math
import time
from collections import deque

from fineserve_shapes.simulator.answers import Answer
from fineserve_shapes.simulator.ring import ROUNDING_S, Seat, open_ring
from fineserve_shapes.simulator.schedule import ConstantEngine


class Carousel:
    """Has the chunks of answers written that an engine has handed over, from their second or later to their last one."""

    def __init__(self, engine: ConstantEngine) -> None:
        self._engine = engine
        self._interval_s = engine.itl_s
        self._until_s = 0.0  # what was due until then has been written
        self._ring, self._new_seat = open_ring(engine.itl_s)
        self._seats: dict[Answer, Seat] = {}
        self._answers: dict[Seat, Answer] = {}
        self._ended: deque[Seat] = deque()  # all of their chunks have been written

    def next_s(self) -> float | None:
        """When something is due next, None if the carousel is empty."""
        return self._ring.next_s()

    def board(self, answer: Answer, due_s: float) -> None:
        """Take an answer over after the chunk that was due then, if its engine still has chunks to give.

        One that is behind has its chunks written at once until it is not.
        """
        sequence, phrase = answer.sequence, answer.phrase
        if not (phrase and sequence.live):
            return
        behind = due_s + self._interval_s <= self._until_s
        if behind and answer.tokens < sequence.generated:
            return  # the chunk before, which may go later than this call, must go first
        self._engine.hand_over(sequence)
        token = sequence.generated + 1
        next_s = self._due_s(answer, token - 1)
        while behind and token < answer.total:
            answer.chunk_due_s.append(next_s)
            answer.token_s.append(time.perf_counter())
            answer.wire.write(phrase[token % len(phrase)])
            token += 1
            next_s = self._due_s(answer, token - 1)
            behind = next_s <= self._until_s
        seat = self._new_seat(answer.wire.fd, phrase, token % len(phrase), answer.total - token)
        self._seats[answer] = seat
        self._answers[seat] = answer
        if behind:
            self._ended.append(seat)
        else:
            self._ring.board(seat, next_s)
        answer.carousel = self

    def leave(self, answer: Answer) -> None:
        """Write nothing more of this answer."""
        seat = self._seats[answer]
        if seat in self._ended:
            self._ended.remove(seat)
        else:
            self._ring.leave(seat)
        self._remove(answer)

    def catch_up(self, answer: Answer) -> None:
        """Tell an answer when its chunks were written."""
        answer.token_s.frombytes(self._seats[answer].take())

    def write(self, now_s: float) -> None:
        """Write what is due until then, but the last chunks of answers."""
        self._until_s = max(now_s, self._until_s)
        while (seat := self._ring.write(now_s, self._write_rest)) is not None:
            self._ended.append(seat)

    def ride(self, until_s: float, fd: int) -> bool:
        """Write them whenever they are due, until `fd` is readable, the time has come or an answer's last one is due.

        Returns whether it is that.
        """
        seat = self._ring.ride(until_s, fd, self._write_rest)
        next_s, reached_s = self._ring.next_s(), time.perf_counter()
        if next_s is not None:  # the ride may have ended before all was written
            reached_s = min(reached_s, next_s - 2 * ROUNDING_S)
        self._until_s = max(reached_s, self._until_s)
        if seat is not None:
            self._ended.append(seat)
        return seat is not None

    def ended_s(self) -> float:
        """When the first of the last chunks that wait for `end` was due; infinity if none waits."""
        if not self._ended:
            return math.inf
        answer = self._answers[self._ended[0]]
        return self._due_s(answer, answer.total - 1)

    def end(self) -> bool:
        """Let an answer give its last chunk if that is due; whether there was one."""
        if not self._ended:
            return False
        answer = self._answers[self._ended.popleft()]
        self._remove(answer)
        answer.token(self._due_s(answer, answer.tokens), 1)
        return True

    def _write_rest(self, seat: Seat, left: bytes) -> int:
        wire = self._answers[seat].wire
        wire.write_rest(left)
        return wire.fd

    def _remove(self, answer: Answer) -> None:
        self.catch_up(answer)
        del self._answers[self._seats.pop(answer)]
        answer.carousel = None
        answer.sequence.running = False
        first_s, interval_s = self._engine.first_due_s(answer.sequence), self._interval_s
        # the engine's sum in the engine's order, here as everywhere
        written = range(len(answer.chunk_due_s), answer.tokens)
        answer.chunk_due_s += [first_s + token * interval_s for token in written]

    def _due_s(self, answer: Answer, token: int) -> float:
        """When its token of this number is due, from 0."""
        return self._engine.first_due_s(answer.sequence) + token * self._interval_s
