"""The times of an answer are those of its bytes, whatever else the client was busy with."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import gevent
import pytest
from gevent import monkey
from servers import (
    END,
    HEAD,
    PATH,
    Lab,
    Peer,
    chunk,
    events,
    post,
    sized,
    whole,
)

from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result

_block = monkey.get_original("time", "sleep")
SCHEDULING_S = 0.05  # by how much a loaded machine may be late


def paced(tokens: int, every_s: float, written_s: list[float], busy_s: float = 0.0) -> Callable[[Peer], object]:
    """An answer whose pieces come so often; keeps the time just before each write, the last one's too.

    busy_s: for so long after each of them nobody reads.
    """

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        for data in events(tokens):
            gevent.sleep(every_s)
            written_s.append(time.perf_counter())
            peer.send(chunk(data))
            if busy_s:
                _block(busy_s)
        written_s.append(time.perf_counter())
        peer.send(END)

    return handle


def assert_stamped(result: Result, written_s: list[float]) -> None:
    """Each token's time is when it was written, both by the one clock that there is here."""
    errors_s = [came_s - sent_s for came_s, sent_s in zip(result.chunk_times_s, written_s, strict=True)]
    assert min(errors_s) > -1e-4
    assert max(errors_s) < SCHEDULING_S


def test_tokens_are_stamped_when_they_come(lab: Lab) -> None:
    written_s: list[float] = []
    result = post(lab.client(lab.serve(paced(5, 0.03, written_s)).url), asked=5)
    assert_stamped(result, written_s[:5])
    assert result.first_token_s == result.chunk_times_s[0]
    assert result.last_token_s == result.chunk_times_s[-1]
    assert 0 <= result.end_s - written_s[-1] < SCHEDULING_S


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what a TCP socket receives")
def test_a_client_that_is_busy_elsewhere_does_not_add_to_the_servers_latency(lab: Lab) -> None:
    written_s: list[float] = []
    client = lab.client(lab.serve(paced(3, 0.05, written_s, busy_s=0.15)).url)
    gevent.sleep(0.05)  # the kernel begins to stamp
    assert_stamped(post(client, asked=3), written_s[:3])


def test_the_end_is_the_time_of_the_last_read_however_late_the_greenlet_wakes(lab: Lab) -> None:
    class Busy(AnswerReader):
        """Keeps the hub busy between the last read and the greenlet's turn."""

        __slots__ = ()

        def feed(self, data: bytes, at_s: float) -> bool:
            lab.reactor.call_later(partial(_block, 0.1))
            return super().feed(data, at_s)

    client = lab.client(lab.answer(sized("200 OK", b"".join(events()))).url)
    result = client.post(PATH, b"{}", Busy(3))
    assert result.outcome == "ok"
    assert time.perf_counter() - result.end_s > 0.09
    assert result.end_s == result.last_token_s


def test_sent_is_before_connecting(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow connection is part of the latency that a user sees."""
    server = lab.answer(whole())
    look_up = gevent.socket.getaddrinfo

    def slow(*args: object, **kwargs: object) -> object:
        gevent.sleep(0.1)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(gevent.socket, "getaddrinfo", slow)
    result = post(lab.client(f"http://localhost:{server.port}"))
    assert result.outcome == "ok"
    assert result.ttft_s is not None
    assert result.ttft_s > 0.09
