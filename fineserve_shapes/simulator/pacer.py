"""What wakes the server: engines are stepped at their times, and what is due goes to its answers."""

import asyncio
import math
import time
from collections.abc import Sequence

from fineserve_shapes.simulator.alarm import EarliestAlarm, Nap
from fineserve_shapes.simulator.answers import Answer
from fineserve_shapes.simulator.burst import write_tokens
from fineserve_shapes.simulator.carousel import Carousel
from fineserve_shapes.simulator.engine import Engine
from fineserve_shapes.simulator.ring import GATHER_S
from fineserve_shapes.simulator.schedule import ConstantEngine

LONGEST_AWAY_S = 2e-3
"""The loop has its turn at least so often, while chunks are due all the time."""


class Pacer:
    """Submits answers to engines, and gives them their tokens in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, loop_fd: int, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._carousels: dict[Engine, Carousel] = {
            engine: Carousel(engine) for engine in engines if isinstance(engine, ConstantEngine)
        }
        self._alarm = EarliestAlarm(loop, self._step)
        # it rides: between two turns of the loop it waits and writes by itself, if all other tokens come from its engine
        self._rides = self._carousels.get(engines[0]) if len(engines) == 1 else None
        self._loop_fd = loop_fd
        self._nap = Nap(loop_fd)
        self._next_wake_s = 0.0
        self._submitted_s = 0.0

    def submit(self, answer: Answer, received_s: float | None = None) -> None:
        """Let its engine generate an answer; now, if it was not received at a time of its own."""
        # never backwards: a request that waited on its connection was received before others that were submitted
        now_s = time.perf_counter() if received_s is None else max(received_s, self._submitted_s)
        self._submitted_s = now_s
        engine = answer.request.model.engine
        self._give(engine, now_s)
        answer.sequence.answer = answer
        engine.submit(answer.sequence, now_s)
        self._alarm.advance(self._wake_s(engine))

    def withdraw(self, answer: Answer) -> None:
        """Generate no more of it, however far it is."""
        if answer.carousel is not None:
            answer.carousel.leave(answer)
        if answer.sequence.generated < answer.sequence.output_tokens:
            answer.request.model.engine.abort(answer.sequence)

    def close(self) -> None:
        """Wake no more."""
        self._alarm.close()

    def _step(self) -> None:
        now_s = time.perf_counter()
        away_s = now_s + LONGEST_AWAY_S
        while True:
            for engine in self._engines:
                self._give(engine, now_s)
            self._next_wake_s = now_s + GATHER_S
            if self._rides is not None:
                first_s = self._engines[0].next_s()
                self._rides.ride(away_s if first_s is None else min(first_s, away_s), self._loop_fd)
            wake_s = min(map(self._wake_s, self._engines))
            if wake_s > away_s or not self._nap.until(wake_s):
                break
            now_s = time.perf_counter()
        self._alarm.advance(wake_s)

    def _give(self, engine: Engine, now_s: float) -> None:
        carousel = self._carousels.get(engine)
        if carousel is not None:
            carousel.write(now_s)
        next_s = engine.next_s()
        if next_s is not None and next_s <= now_s:
            write_tokens(engine.advance(now_s), None if carousel is None else carousel.board)

    def _wake_s(self, engine: Engine) -> float:
        """When to look next at what is due from an engine; never, if it has nothing to do."""
        # what was due at an earlier time and has gone leaves an alarm for nothing, which does no harm
        next_s = engine.next_s()
        carousel = self._carousels.get(engine)
        if carousel is not None and (due_s := carousel.next_s()) is not None and (next_s is None or due_s < next_s):
            next_s = due_s
        return math.inf if next_s is None else max(next_s, self._next_wake_s)
