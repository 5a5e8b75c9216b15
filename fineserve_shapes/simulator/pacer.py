"""What the server waits for: engines are stepped at their times, and what is due goes to its answers."""

import math
import time
from collections.abc import Iterable, Sequence

from fineserve_shapes.simulator.answers import Answer
from fineserve_shapes.simulator.burst import write_tokens
from fineserve_shapes.simulator.carousel import Carousel
from fineserve_shapes.simulator.engine import Engine
from fineserve_shapes.simulator.ring import GATHER_S
from fineserve_shapes.simulator.schedule import ConstantEngine
from fineserve_shapes.simulator.waiting import Nap

LONGEST_AWAY_S = 2e-3
"""The loop has its turn so soon after a token at the latest: answers leave it things to do."""

AHEAD_S = 0.01
"""Chunks on carousels go before tokens that cost more, the first and the last ones of answers, by so much."""


class Pacer:
    """Submits answers to engines, and gives them their tokens in time.

    loop_fd: readable if the loop has something to do.
    """

    def __init__(self, loop_fd: int, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._carousels: dict[Engine, Carousel] = {
            engine: Carousel(engine) for engine in engines if isinstance(engine, ConstantEngine)
        }
        # it rides: it waits and writes by itself, if all other tokens come from its engine
        self._rides = self._carousels.get(engines[0]) if len(engines) == 1 else None
        self._loop_fd = loop_fd
        self._nap = Nap(loop_fd)
        self._submitted_s = 0.0

    def submit(self, answer: Answer, received_s: float | None = None) -> None:
        """Let its engine generate an answer; now, if it was not received at a time of its own."""
        # never backwards: a request that waited on its connection was received before others that were submitted
        now_s = time.perf_counter() if received_s is None else max(received_s, self._submitted_s)
        self._submitted_s = now_s
        engine = answer.request.model.engine
        self.write()
        self._give(engine, now_s)
        answer.sequence.answer = answer
        engine.submit(answer.sequence, now_s)

    def withdraw(self, answer: Answer) -> None:
        """Generate no more of it, however far it is."""
        if answer.carousel is not None:
            answer.carousel.leave(answer)
        if answer.sequence.generated < answer.sequence.output_tokens:
            answer.request.model.engine.abort(answer.sequence)

    def write(self) -> None:
        """Write what carousels have due: between one piece of work and the next, so that chunks wait for one at most.

        But nothing that was due AHEAD_S after a token that still waits for its turn.
        """
        for engine, carousel in self._carousels.items():
            carousel.write(min(time.perf_counter(), min(_first((engine,)), carousel.ended_s()) + AHEAD_S))

    def wait(self, until_s: float) -> None:
        """Give answers their tokens in time, until then or until the loop has something to do."""
        now_s = time.perf_counter()
        first_s = min(self._engines_s(), self._carousels_s())
        until_s = min(until_s, max(now_s, first_s) + LONGEST_AWAY_S)
        while True:
            if self._rides is None:
                self.write()
            for engine in self._engines:
                self._give(engine, now_s)
            soon_s = now_s + GATHER_S
            wake_s = min(until_s, max(soon_s, self._engines_s()))
            if self._rides is None:
                wake_s = min(wake_s, max(soon_s, self._carousels_s()))
                self._nap.until(wake_s)
                goes_on = False
            else:
                goes_on = self._rides.ride(wake_s, self._loop_fd)
            now_s = time.perf_counter()
            if now_s >= until_s or (now_s < wake_s and not goes_on):
                break

    def _give(self, engine: Engine, now_s: float) -> None:
        """Hand out what was due from an engine until then."""
        carousel = self._carousels.get(engine)
        next_s = engine.next_s()
        if carousel is None:
            if next_s is not None and next_s <= now_s:
                write_tokens(engine.advance(now_s))
            return
        while next_s is not None and next_s <= now_s:
            carousel.write(next_s)  # who boards then is the last in the ring's order
            write_tokens(engine.advance(next_s), carousel.board)
            self.write()
            next_s = engine.next_s()
        while carousel.end():
            self.write()

    def _engines_s(self) -> float:
        """When the first engine has something due; infinity if none has anything to do."""
        return _first(self._engines)

    def _carousels_s(self) -> float:
        """The same of carousels, last chunks included."""
        ended_s = min((carousel.ended_s() for carousel in self._carousels.values()), default=math.inf)
        return min(_first(self._carousels.values()), ended_s)


def _first(given: Iterable[Engine | Carousel]) -> float:
    first_s = math.inf
    for one in given:
        next_s = one.next_s()
        if next_s is not None and next_s < first_s:
            first_s = next_s
    return first_s
