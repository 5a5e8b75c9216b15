"""Requests that are cut short, by a deadline or with the run: whatever they were at, it ends them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import gevent
import pytest
from servers import (
    HEAD,
    Lab,
    Peer,
    chunk,
    descriptors,
    event,
    failed,
    post,
    settled,
    sized,
    whole,
)

from fineserve_shapes.client.client import Client
from fineserve_shapes.client.connection import Deadlines
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.target import Target
from fineserve_shapes.errors import InputError

MB = 2**20


# deadlines


def silence(peer: Peer) -> object:
    return peer.request() and peer.gone()


def silence_after_headers(peer: Peer) -> object:
    return peer.request() and (peer.send(HEAD), peer.gone())


def stall(peer: Peer) -> object:
    return peer.request() and (peer.send(HEAD + chunk(event()) + chunk(event())), peer.gone())


def comments(peer: Peer) -> None:
    """Keep-alive comments for ever, every now and then."""
    peer.request()
    peer.send(HEAD + chunk(event()))
    while True:
        peer.send(chunk(b": keep-alive\n\n"))
        gevent.sleep(0.03)


def empty_events(peer: Peer) -> None:
    """Events without a choice, for ever."""
    peer.request()
    peer.send(HEAD)
    while True:
        peer.send(chunk(b'event: ping\ndata: {"choices":[]}\n\n'))
        gevent.sleep(0.03)


@pytest.mark.parametrize("handle", [silence, silence_after_headers, stall, comments, empty_events])
def test_no_progress_is_a_timeout(lab: Lab, handle: Callable[[Peer], object]) -> None:
    """Only tokens are progress; what came before the end is kept."""
    before = descriptors()
    result = post(lab.client(lab.serve(handle).url, progress_s=0.3))
    failed(result, "timeout", "no progress for 0.3 s")
    since_s = result.last_token_s or result.sent_s
    assert 0.29 <= result.end_s - since_s < 1.5
    assert len(result.chunk_times_s) == {"stall": 2, "comments": 1}.get(handle.__name__, 0)
    assert settled(lambda: descriptors() == before + 1)


def test_the_request_deadline_ends_an_answer_that_makes_progress(lab: Lab) -> None:
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        while True:
            peer.send(chunk(event()))
            gevent.sleep(0.02)

    result = post(lab.client(lab.serve(handle).url, progress_s=0.2, request_s=0.6), asked=10_000)
    failed(result, "timeout", "no end of the answer within 0.6 s")
    assert 0.59 <= result.e2e_s < 2
    assert result.output_tokens is not None
    assert result.output_tokens > 5


def test_an_error_event_and_then_silence_is_the_error(lab: Lab) -> None:
    answer = HEAD + chunk(event()) + chunk(b'data: {"error":{"message":"engine dead","code":500}}\n\n')
    server = lab.serve(lambda peer: peer.request() and (peer.send(answer), peer.gone()))
    failed(post(lab.client(server.url, progress_s=0.2)), "stream_error", "engine dead")


@pytest.mark.parametrize("deadline", ["connect_s", "progress_s", "request_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_deadlines_are_positive(deadline: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"--{deadline[:-2]}-timeout must be positive, got {value:g}"):
        Deadlines(**{deadline: value})


# large requests


def test_a_large_body_goes_whole_to_a_server_that_reads_slowly(lab: Lab) -> None:
    got = []

    def handle(peer: Peer) -> None:
        request = peer.head()
        assert request is not None
        while len(peer._read) < int(request.headers["content-length"]):
            peer._read += peer.sock.recv(2**18)
            gevent.sleep(0.005)
        got.append(peer._read)
        peer.send(whole())

    body = bytes(range(256)) * (5 * MB // 256)
    assert post(lab.client(lab.serve(handle).url), body).outcome == "ok"
    assert got == [body]


def test_others_are_read_while_a_large_body_is_sent(lab: Lab) -> None:
    stuck = gevent.spawn(post, lab.client(lab.serve(lambda peer: gevent.sleep(10)).url), bytes(20 * MB))
    gevent.sleep(0.01)
    assert post(lab.client(lab.answer(whole()).url)).outcome == "ok"
    assert not stuck.ready()
    stuck.kill()
    assert stuck.value.outcome == "cancelled"


@pytest.mark.parametrize("then", [lambda peer: None, lambda peer: gevent.sleep(5)], ids=["closes", "stays"])
def test_a_server_may_answer_before_it_has_read_the_whole_body(lab: Lab, then: Callable[[Peer], object]) -> None:
    """Too large, it says, and reads no more: the answer counts, and the connection is not used again."""
    answer = sized("413 Too Large", b'{"error":"too large"}')
    server = lab.serve(lambda peer: peer.head() and (peer.send(answer), then(peer)))
    client = lab.client(server.url, progress_s=3)
    for _ in range(2):
        result = post(client, bytes(20 * MB))
        failed(result, "http_error", "HTTP 413: too large")
        assert result.reused is False
        assert result.e2e_s < 1.5


def test_the_deadlines_hold_while_the_request_is_sent(lab: Lab) -> None:
    server = lab.serve(lambda peer: gevent.sleep(10))
    result = post(lab.client(server.url, progress_s=5, request_s=0.3), bytes(20 * MB))
    failed(result, "timeout", "no end of the answer within 0.3 s")
    assert result.e2e_s < 1.5
    result = post(lab.client(server.url, progress_s=0.3), bytes(20 * MB))
    failed(result, "timeout", "0.3 s")
    assert result.e2e_s < 1.5


def test_a_server_that_resets_while_the_request_is_sent_is_a_stream_error(lab: Lab) -> None:
    server = lab.serve(lambda peer: peer.head() and peer.reset())
    result = post(lab.client(server.url), bytes(20 * MB))
    assert (result.outcome, result.retried) == ("stream_error", False)


# the end of a run


@pytest.mark.parametrize("handle", [silence, stall])
def test_a_killed_request_is_cancelled_and_its_connection_closed(lab: Lab, handle: Callable[[Peer], object]) -> None:
    ended = []
    server = lab.serve(lambda peer: (handle(peer), ended.append(1)))
    before = descriptors()
    request = gevent.spawn(post, lab.client(server.url))
    assert settled(lambda: descriptors() == before + 2)
    gevent.sleep(0.03)
    request.kill()
    result = request.value
    failed(result, "cancelled", "stopped before the answer had ended")
    assert len(result.chunk_times_s) == (2 if handle is stall else 0)
    assert settled(lambda: ended == [1])
    assert descriptors() == before


def test_a_request_killed_after_its_client_and_reactor_were_closed_is_cancelled_all_the_same(lab: Lab) -> None:
    before = descriptors()
    reactor = Reactor(time.perf_counter)
    client = Client(Target(lab.serve(stall).url), reactor, Deadlines())
    request = gevent.spawn(post, client)
    gevent.sleep(0.05)
    client.close()
    reactor.close()
    request.kill()
    assert request.value.outcome == "cancelled"
    assert settled(lambda: descriptors() == before + 1)


def test_a_killed_request_leaves_the_others_alone(lab: Lab) -> None:
    go = gevent.event.Event()
    server = lab.serve(lambda peer: peer.request() and (peer.send(HEAD), go.wait(), peer.send(whole()[len(HEAD) :])))
    client = lab.client(server.url)
    requests = [gevent.spawn(post, client) for _ in range(10)]
    assert settled(lambda: server.connections == 10)
    gevent.sleep(0.02)
    gevent.killall(requests[::2])
    go.set()
    gevent.joinall(requests)
    assert [request.value.outcome for request in requests] == ["cancelled", "ok"] * 5
