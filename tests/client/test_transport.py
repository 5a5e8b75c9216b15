"""Connecting, and bytes over TCP and TLS."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import sys
import time
from contextlib import suppress
from typing import Any

import gevent
import pytest
from certificates import Certificate
from gevent import monkey
from servers import (
    DONE,
    UNFRAMED,
    Lab,
    Peer,
    TLSPeer,
    black_hole,
    descriptors,
    event,
    events,
    free_port,
    post,
    settled,
    sized,
    whole,
)

from fineserve_shapes.client.target import Target
from fineserve_shapes.client.transport import ConnectError, connect

_block = monkey.get_original("time", "sleep")


# connecting


def refusal(url: str, context: ssl.SSLContext | None = None, timeout_s: float = 2.0) -> str:
    with pytest.raises(ConnectError) as failed:
        connect(Target(url), context, timeout_s)
    return str(failed.value)


def test_a_refused_connection_says_so(lab: Lab) -> None:
    port = free_port()
    assert refusal(f"http://127.0.0.1:{port}") == f"no connection to 127.0.0.1:{port}: connection refused"


def test_a_name_that_does_not_exist_says_so(lab: Lab) -> None:
    text = refusal("http://no-such-host.invalid", timeout_s=5)
    assert text.startswith("the name no-such-host.invalid ")


def test_a_name_that_takes_too_long_to_find_ends_at_the_deadline(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *args, **kwargs: gevent.sleep(5))
    assert refusal("http://host.example", timeout_s=0.1) == "the name host.example was not found within 0.1 s"


def test_a_black_hole_ends_at_the_connect_deadline_and_keeps_no_descriptor(lab: Lab) -> None:
    """The queue of the listening socket is full: nothing comes back, as from a firewall that drops."""
    with black_hole() as url:
        before = descriptors()
        started_s = time.perf_counter()
        text = refusal(url, timeout_s=0.3)
        assert 0.29 <= time.perf_counter() - started_s < 1.5
        assert text.endswith("within 0.3 s")
        assert descriptors() == before


def test_an_address_in_figures_is_not_looked_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up is a thread's work: it costs more than the rest of connecting."""
    monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("looked up"))
    assert post(lab.client(lab.answer(whole()).url)).outcome == "ok"


def test_a_host_name_is_looked_up(lab: Lab) -> None:
    server = lab.answer(whole())
    assert post(lab.client(f"http://localhost:{server.port}")).outcome == "ok"


def test_the_next_address_of_a_name_is_tried(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have an address that refuses before one that answers."""
    server = lab.answer(whole())
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (free_port(), server.port)
    ]
    monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *args, **kwargs: addresses)
    assert post(lab.client("http://host.example")).outcome == "ok"


def test_ipv6(lab: Lab) -> None:
    try:
        server = lab.serve(lambda peer: peer.request() and peer.send(whole()), "::1")
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    assert server.url.startswith("http://[::1]:")
    assert post(lab.client(server.url)).outcome == "ok"


def test_no_descriptor_left_is_a_failed_connection_and_no_exception(lab: Lab) -> None:
    client = lab.client(lab.answer(whole()).url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        result = post(client)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    assert result.outcome == "connect_error"
    assert result.error is not None
    assert result.error.endswith("too many open files")
    assert post(client).outcome == "ok"


def test_a_greenlet_killed_while_it_connects_leaves_no_descriptor(lab: Lab) -> None:
    with black_hole() as url:
        before = descriptors()
        client = lab.client(url)
        request = gevent.spawn(post, client)
        gevent.sleep(0.02)
        assert descriptors() == before + 1
        request.kill()
        assert request.value.outcome == "cancelled"
        assert descriptors() == before


# TLS


def tls_answers(lab: Lab, certificate: Certificate, answer: bytes, piece: int = 2**14) -> str:
    context = certificate.server()

    def handle(raw: Peer) -> None:
        peer = TLSPeer(raw.sock, context, piece)
        while (request := peer.request()) is not None:
            server.requests.append(request)
            peer.send(answer)

    server = lab.serve(handle)
    return f"https://localhost:{server.port}"


@pytest.mark.parametrize("piece", [1, 7, 2**14], ids=lambda piece: f"in pieces of {piece} bytes")
def test_tls_works_however_the_records_are_split(lab: Lab, certificate: Certificate, piece: int) -> None:
    client = lab.client(tls_answers(lab, certificate, whole(5), piece), context=certificate.client())
    results = [post(client, asked=5) for _ in range(2)]
    assert [(result.outcome, result.output_tokens, result.reused) for result in results] == [
        ("ok", 5, False),
        ("ok", 5, True),
    ]


def test_a_long_answer_of_many_records_comes_whole(lab: Lab, certificate: Certificate) -> None:
    client = lab.client(tls_answers(lab, certificate, whole(5000), 2**20), context=certificate.client())
    result = post(client, asked=5000)
    assert (result.outcome, result.output_tokens) == ("ok", 5000)


def test_a_large_request_goes_whole_through_tls(lab: Lab, certificate: Certificate) -> None:
    bodies = []
    context = certificate.server()

    def handle(raw: Peer) -> None:
        peer = TLSPeer(raw.sock, context)
        request = peer.request()
        assert request is not None
        bodies.append(request.body)
        peer.send(whole())

    url = f"https://127.0.0.1:{lab.serve(handle).port}"
    body = os.urandom(5 * 2**20)
    assert post(lab.client(url, context=certificate.client()), body).outcome == "ok"
    assert bodies == [body]


@pytest.mark.parametrize("together", [True, False])
def test_an_answer_without_a_length_ends_with_tls_although_tcp_goes_on(
    lab: Lab, certificate: Certificate, together: bool
) -> None:
    """asyncio's servers say goodbye in TLS and then wait for the client, up to 30 s."""
    context = certificate.server()
    answer = UNFRAMED + event(finish="stop") + DONE

    def handle(raw: Peer) -> None:
        peer = TLSPeer(raw.sock, context)
        peer.request()
        if not together:
            peer.send(answer)
            gevent.sleep(0.05)
        peer.send_and_say_goodbye(answer if together else b"")
        raw.gone()

    url = f"https://localhost:{lab.serve(handle).port}"
    result = post(lab.client(url, context=certificate.client(), progress_s=3), asked=1)
    assert result.outcome == "ok"
    assert result.e2e_s < 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what a TCP socket receives")
def test_a_busy_client_knows_when_tls_records_came(lab: Lab, certificate: Certificate) -> None:
    context = certificate.server()
    written_s: list[float] = []

    def handle(raw: Peer) -> None:
        peer = TLSPeer(raw.sock, context)
        peer.request()
        peer.send(UNFRAMED)
        for data in events(3):
            gevent.sleep(0.05)
            written_s.append(time.perf_counter())
            peer.send(data)
            _block(0.15)  # nobody reads in that time

    client = lab.client(f"https://127.0.0.1:{lab.serve(handle).port}", context=certificate.client())
    gevent.sleep(0.05)  # the kernel begins to stamp
    result = post(client, asked=3)
    assert result.outcome == "ok"
    errors_s = [came_s - sent_s for came_s, sent_s in zip(result.chunk_times_s, written_s[:3], strict=True)]
    assert -1e-4 < min(errors_s) <= max(errors_s) < 0.05


def test_a_reset_in_a_tls_stream_is_a_stream_error(lab: Lab, certificate: Certificate) -> None:
    context = certificate.server()

    def handle(raw: Peer) -> None:
        peer = TLSPeer(raw.sock, context)
        peer.request()
        peer.send(whole()[:150])
        gevent.sleep(0.02)
        raw.reset()

    url = f"https://localhost:{lab.serve(handle).port}"
    assert post(lab.client(url, context=certificate.client())).outcome == "stream_error"


def test_bytes_that_are_no_tls_in_mid_stream_are_a_stream_error(lab: Lab, certificate: Certificate) -> None:
    context = certificate.server()

    def handle(raw: Peer) -> None:
        peer = TLSPeer(raw.sock, context)
        peer.request()
        peer.send(whole()[:150])
        raw.send(b"no record at all")
        raw.gone()

    url = f"https://localhost:{lab.serve(handle).port}"
    assert post(lab.client(url, context=certificate.client())).outcome == "stream_error"


def test_a_certificate_that_nobody_vouches_for_is_a_connect_error(lab: Lab, certificate: Certificate) -> None:
    before = descriptors()
    url = tls_answers(lab, certificate, whole())
    result = post(lab.client(url))
    assert result.outcome == "connect_error"
    assert result.error is not None
    assert "self-signed certificate" in result.error.replace("self signed", "self-signed")
    assert settled(lambda: descriptors() == before + 1)  # the server's listening socket


def test_a_certificate_for_another_name_is_a_connect_error(lab: Lab, certificate: Certificate) -> None:
    context = certificate.server()
    server = lab.serve(lambda raw: TLSPeer(raw.sock, context), "127.0.0.2")
    result = post(lab.client(f"https://127.0.0.2:{server.port}", context=certificate.client()))
    assert result.outcome == "connect_error"
    assert result.error is not None
    assert "127.0.0.2" in result.error


def no_tls(peer: Peer) -> Any:
    peer.recv()
    peer.send(sized("400 Bad Request", b"plain HTTP here"))


def hangs_up(peer: Peer) -> Any:
    peer.recv()


def resets(peer: Peer) -> Any:
    peer.recv()
    peer.reset()


@pytest.mark.parametrize("handle", [no_tls, hangs_up, resets])
def test_tls_to_a_port_without_it_is_a_connect_error(lab: Lab, handle: Any) -> None:
    result = post(lab.client(f"https://127.0.0.1:{lab.serve(handle).port}"))
    assert result.outcome == "connect_error"


def test_silence_in_the_tls_handshake_ends_at_the_connect_deadline(lab: Lab) -> None:
    server = lab.serve(Peer.gone)
    result = post(lab.client(f"https://127.0.0.1:{server.port}", connect_s=0.3))
    assert result.outcome == "connect_error"
    assert 0.29 <= result.e2e_s < 1.5


def test_plain_http_to_a_tls_port_is_a_stream_error(lab: Lab, certificate: Certificate) -> None:
    url = tls_answers(lab, certificate, whole()).replace("https", "http")
    assert post(lab.client(url)).outcome == "stream_error"
