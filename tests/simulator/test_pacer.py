"""The pacer: whatever holds the loop up, streams keep their order and are in time again soon after."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recordedanswer import Recorded, nonblocking_pair, use_rings

from fineserve_shapes.simulator.pacer import Pacer
from fineserve_shapes.simulator.schedule import ConstantEngine

TTFT_S, ITL_S = 0.05, 0.02
STALL_S = 0.06


class Bench:
    """A pacer whose loop has nothing to do, and streams of its engine."""

    def __init__(self) -> None:
        self.engine = ConstantEngine(TTFT_S, ITL_S)
        self._pipe = os.pipe()
        self.pacer = Pacer(self._pipe[0], [self.engine])
        self._model = SimpleNamespace(engine=self.engine)
        self._sockets: list[socket.socket] = []

    def submit(self, tokens: int) -> Any:
        """A stream whose chunks go to a socket."""
        ends = nonblocking_pair()
        self._sockets += ends
        answer: Any = Recorded(tokens, ends[0].fileno())
        answer.request = SimpleNamespace(model=self._model)
        self.pacer.submit(answer)
        return answer

    def run_until(self, at_s: float) -> None:
        while time.perf_counter() < at_s:
            self.pacer.wait(at_s)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        for fd in self._pipe:
            os.close(fd)


@pytest.fixture(params=["in C", "in Python"])
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    use_rings(request.param, monkeypatch)
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize("joins", [True, False], ids=["one begins in it", "one ends in it"])
def test_streams_are_in_time_again_after_the_loop_was_held_up(bench: Bench, joins: bool) -> None:
    """One that begins, or ends, meanwhile must not get before chunks that were due earlier, and hold them up for good."""
    began_s = time.perf_counter()
    streams = []
    for number in range(10):
        bench.run_until(began_s + 0.002 * number)
        streams.append(bench.submit(200))
    short = bench.submit(10)
    bench.run_until(short.sequence.arrived_s + TTFT_S + 8.4 * ITL_S)  # its last chunk is due soon
    if joins:
        bench.run_until(short.sequence.arrived_s + TTFT_S + 12 * ITL_S)
        streams.append(bench.submit(200))
        bench.run_until(streams[-1].sequence.arrived_s + TTFT_S - 0.8 * STALL_S)
    time.sleep(STALL_S)
    over_s = time.perf_counter()
    bench.run_until(over_s + 0.6)
    for stream in streams:
        count = stream.tokens
        written_s = np.array(stream.token_s)[1:]  # the first has no time here
        late_s = written_s - (stream.sequence.arrived_s + TTFT_S + ITL_S * np.arange(1, count))
        assert late_s.min() > -1e-6
        assert np.median(late_s[written_s > over_s + 0.2]) < 0.005


def test_a_last_chunk_that_waits_is_not_forgotten_where_nothing_else_is_due(bench: Bench) -> None:
    stream = bench.submit(4)
    bench.run_until(stream.sequence.arrived_s + TTFT_S + 1.5 * ITL_S)
    time.sleep(2 * ITL_S)
    bench.pacer.write()  # as between two pieces of work
    assert stream.tokens == 3
    began_s = time.perf_counter()
    bench.pacer.wait(began_s + 2.0)
    assert stream.tokens == 4
    assert time.perf_counter() < began_s + 0.5  # what its end leaves to the loop has its turn
