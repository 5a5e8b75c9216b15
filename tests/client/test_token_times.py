"""The times of an answer are those of its bytes, whatever else the client was busy with."""

from __future__ import annotations

import sys
import time

import gevent
import pytest
from gevent import monkey
from gevent.hub import get_hub
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

_block = monkey.get_original("time", "sleep")
SCHEDULING_S = 0.05  # by how much a loaded machine may be late


def test_tokens_are_stamped_when_they_come(lab: Lab) -> None:
    """The server's truth is the time just before each write; both share one clock here."""
    written_s: list[float] = []

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        for data in events(5):
            gevent.sleep(0.03)
            written_s.append(time.perf_counter())
            peer.send(chunk(data))
        written_s.append(time.perf_counter())
        peer.send(END)

    result = post(lab.client(lab.serve(handle).url), asked=5)
    errors_s = [read_s - sent_s for read_s, sent_s in zip(result.chunk_times_s, written_s[:5], strict=True)]
    assert min(errors_s) > -1e-4
    assert max(errors_s) < SCHEDULING_S
    assert result.first_token_s == result.chunk_times_s[0]
    assert result.last_token_s == result.chunk_times_s[-1]
    assert 0 <= result.end_s - written_s[-1] < SCHEDULING_S


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what a TCP socket receives")
def test_a_client_that_is_busy_elsewhere_does_not_add_to_the_servers_latency(lab: Lab) -> None:
    written_s: list[float] = []

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        for data in events(3):
            gevent.sleep(0.05)
            written_s.append(time.perf_counter())
            peer.send(chunk(data))
            _block(0.15)  # nobody reads in that time
        peer.send(END)

    client = lab.client(lab.serve(handle).url)
    gevent.sleep(0.05)  # the kernel begins to stamp
    result = post(client, asked=3)
    errors_s = [came_s - sent_s for came_s, sent_s in zip(result.chunk_times_s, written_s[:3], strict=True)]
    assert min(errors_s) > -1e-4
    assert max(errors_s) < SCHEDULING_S


def test_the_end_is_the_time_of_the_last_read_however_late_the_greenlet_wakes(lab: Lab) -> None:
    class Busy(AnswerReader):
        """Keeps the hub busy between the last read and the greenlet's turn."""

        __slots__ = ()

        def feed(self, data: bytes, at_s: float) -> bool:
            get_hub().loop.run_callback(_block, 0.1)
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
