"""A TLS terminator gives both sides what the other sent, and ends with them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator

import pytest

from benchmarks.pacedserver import PacedServer, compiler
from benchmarks.tlsterminator import TLSTerminator

BODY = json.dumps({"model": "paced", "prompt": [1] * 50_000, "max_tokens": 20, "stream": True})

pytestmark = pytest.mark.skipif(compiler() is None, reason="the paced server is C, and there is no compiler")


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PacedServer, TLSTerminator]]:
    with PacedServer(10, 1) as server:
        try:
            terminator = TLSTerminator(server.port)
        except FileNotFoundError:
            pytest.skip("no openssl command to make a certificate with")
        with terminator:
            yield server, terminator


def connection(terminator: TLSTerminator) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=terminator.certificate)
    return http.client.HTTPSConnection(terminator.url.removeprefix("https://"), context=context, timeout=10)


def test_answers_come_whole_one_after_the_other_on_a_connection(servers: tuple[PacedServer, TLSTerminator]) -> None:
    server, terminator = servers
    server.reset()
    once = connection(terminator)
    for _ in range(3):
        once.request("POST", "/v1/completions", BODY)
        answer = once.getresponse().read()
        assert (answer.count(b'"text":" tok'), answer.endswith(b"data: [DONE]\n\n")) == (20, True)
    once.close()
    assert server.truth().written.tolist() == [20, 20, 20]


def test_connections_do_not_wait_for_one_that_says_nothing(servers: tuple[PacedServer, TLSTerminator]) -> None:
    _, terminator = servers
    speaking = connection(terminator)
    with socket.create_connection((speaking.host, speaking.port)):
        speaking.request("GET", "/health")
        assert speaking.getresponse().status == 200
    speaking.close()
