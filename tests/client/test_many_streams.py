"""Thousands of streams that hang: bounded memory and descriptors, all of them ended by their deadline."""

from __future__ import annotations

import gc
import os
import resource
import time
from pathlib import Path

import gevent
import pytest
from servers import PATH, descriptors
from thorough import THOROUGH

from fineserve_shapes.client.client import Client
from fineserve_shapes.client.connection import Deadlines
from fineserve_shapes.client.descriptors import FEW, allow_many
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.target import Target
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.simulator.process import SimulatorProcess

STREAMS = 10_000 if THOROUGH else 2_500
KB_PER_STREAM = 16  # a greenlet with its stack, a parser, a reader, a socket's object
BODY = b'{"model":"simulated","prompt":"word","max_tokens":5,"stream":true}'


def resident_kb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def test_thousands_of_hanging_streams_cost_bounded_memory_and_end() -> None:
    limit = allow_many()
    if limit < STREAMS + 200:
        pytest.skip(f"this process may have {limit} files open")
    deadlines = Deadlines(connect_s=15, progress_s=7 if THOROUGH else 4)
    reactor = Reactor(time.perf_counter)
    with SimulatorProcess(ttft_ms=5, itl_ms=5, fault="stall=1") as simulator:
        client = Client(Target(simulator.url), reactor, deadlines)
        open_before, before_kb = descriptors(), resident_kb()
        results: list[Result] = []

        def one() -> None:
            results.append(client.post(PATH, BODY, AnswerReader(5)))

        greenlets = []
        for start in range(0, STREAMS, 250):
            greenlets += [gevent.spawn(one) for _ in range(start, start + 250)]
            gevent.sleep(0.01)
        most_kb, most_open = 0.0, 0
        until_s = time.perf_counter() + 40
        while len(results) < STREAMS and time.perf_counter() < until_s:
            gevent.sleep(0.25)
            most_kb, most_open = max(most_kb, resident_kb()), max(most_open, descriptors())
        gevent.joinall(greenlets, timeout=1)
        client.close()
        reactor.close()
    outcomes = {result.outcome for result in results}
    print(
        f"\n{STREAMS:,} streams: {(most_kb - before_kb) / STREAMS:.1f} kB each, {most_open - open_before:,} descriptors"
    )
    assert len(results) == STREAMS
    assert outcomes == {"timeout"}
    assert most_open - open_before > STREAMS / 2  # they did hang together
    assert (most_kb - before_kb) / STREAMS < KB_PER_STREAM
    greenlets.clear()
    results.clear()
    gc.collect()
    assert descriptors() <= open_before + 5


def test_a_low_limit_is_said_and_a_process_that_has_run_out_says_so(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FEW:
        pytest.skip("the limit is low already")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        assert allow_many() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
        assert not caplog.records
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
