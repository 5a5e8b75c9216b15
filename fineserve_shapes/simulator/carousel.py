"""Streams of the constant schedule on their way: chunks rendered beforehand, each due a fixed interval after the last.

All of them have the same interval, so they stay in one order and come round in it again and again, a round an interval.
What a chunk needs stands in columns in this order. A stream's other objects are left alone: after a system call, and
between hundreds of streams, whatever is touched comes from far.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import count

from fineserve_shapes.simulator.answers import Answer
from fineserve_shapes.simulator.burst import LARGEST, write_chunks
from fineserve_shapes.simulator.schedule import ConstantEngine

ROUNDING_S = 1e-7
"""More than what a due time differs by that is added up in another order: nothing goes out before it is due."""


class Carousel:
    """Writes the chunks of answers that an engine has handed over, from their second or later to their last one."""

    def __init__(self, engine: ConstantEngine) -> None:
        self._engine = engine
        self._interval_s = engine.itl_s
        self._until_s = 0.0  # what was due until then has been written
        self._round = 0
        self._place = 0  # of the stream whose turn is next; those before it have had their chunk of this round
        # columns, in order of time within a round
        self._offset_s: list[float] = []  # when the chunk is due, counted from the beginning of the round
        self._fd: list[int] = []
        self._chunks: list[Iterator[bytes]] = []
        self._keep: list[Callable[[float], None]] = []  # takes the time of a write
        self._answer: list[Answer] = []

    def next_s(self) -> float | None:
        """When something is due next, None if the carousel is empty."""
        if not self._answer:
            return None
        turns, place = divmod(self._place, len(self._answer))
        return self._offset_s[place] + (self._round + turns) * self._interval_s + ROUNDING_S

    def board(self, answer: Answer, due_s: float) -> None:
        """Take an answer over after the chunk that was due then, if its engine still has chunks to give.

        One that is behind stays with its engine, which makes up for that.
        """
        if not (answer.steady and answer.sequence.live) or due_s + self._interval_s <= self._until_s:
            return
        self._engine.hand_over(answer.sequence)
        answer.carousel = self
        offset_s = self._due_s(answer, answer.sequence.generated) - self._round * self._interval_s
        place = bisect_right(self._offset_s, offset_s, self._place)
        if self._place and place == len(self._offset_s) and offset_s - self._interval_s >= self._offset_s[0]:
            # after all that are still due in this round, and not before those of the next one
            offset_s -= self._interval_s
            place = bisect_right(self._offset_s, offset_s, 0, self._place)
            self._place += 1
        self._offset_s.insert(place, offset_s)
        self._fd.insert(place, answer.wire.fd)
        self._chunks.insert(place, answer.ready)
        self._keep.insert(place, answer.token_s.append)
        self._answer.insert(place, answer)

    def leave(self, answer: Answer) -> None:
        """Write nothing more of this answer."""
        self._remove(self._answer.index(answer))

    def write(self, now_s: float) -> None:
        """Write what is due until then."""
        self._until_s = max(now_s, self._until_s)
        while self._answer:
            if self._place == len(self._answer):
                self._place = 0
                self._round += 1
            first = self._place
            most = min(first + LARGEST, len(self._answer))
            end = bisect_right(self._offset_s, now_s - ROUNDING_S - self._round * self._interval_s, first, most)
            if end == first:
                return
            chunks = list(map(next, self._chunks[first:end]))  # up to the first one that has none left
            self._place = first + len(chunks)
            self._write(first, chunks)
            if self._place < end:
                self._end(self._place)

    def _write(self, first: int, chunks: list[bytes]) -> None:
        places = slice(first, first + len(chunks))
        write_chunks(zip(count(first), self._fd[places], chunks, self._keep[places], strict=False), self._write_rest)

    def _write_rest(self, place: int, left: bytes) -> None:
        wire = self._answer[place].wire
        wire.write_rest(left)
        self._fd[place] = wire.fd

    def _end(self, place: int) -> None:
        """Let an answer give its last token."""
        answer = self._answer[place]
        self._remove(place)
        answer.token(self._due_s(answer, answer.tokens), 1)

    def _remove(self, place: int) -> None:
        for column in (self._offset_s, self._fd, self._chunks, self._keep):
            del column[place]
        answer = self._answer.pop(place)
        if place < self._place:
            self._place -= 1
        answer.carousel = None
        answer.sequence.running = False
        first_s, interval_s = self._engine.first_due_s(answer.sequence), self._interval_s
        # the engine's sum in the engine's order, here as everywhere
        written = range(len(answer.chunk_due_s), answer.tokens)
        answer.chunk_due_s.extend([first_s + token * interval_s for token in written])

    def _due_s(self, answer: Answer, token: int) -> float:
        """When its token of this number is due, from 0."""
        return self._engine.first_due_s(answer.sequence) + token * self._interval_s
