"""Connections of the simulator: how long they are kept, what is refused on them, and who leaves."""

import json
import re
import socket
import time
from collections.abc import Callable

import pytest
from simulator_client import Client, payloads, read_all
from wireforms import (
    COMPLETION,
)


def test_a_connection_is_kept_alive_and_closed_when_idle(simulate: Callable[..., Client]) -> None:
    client = simulate(keep_alive_s=0.3, ttft_ms=1, itl_ms=1)
    connection = client.connection()
    for _ in range(3):
        connection.request("POST", "/v1/completions", json.dumps(COMPLETION | {"model": None, "stream": True}))
        assert payloads(connection.getresponse().read())[-1] == "[DONE]"
    sock = connection.sock
    began = time.monotonic()
    assert sock.recv(1) == b""
    assert 0.2 < time.monotonic() - began < 5.0
    connection.close()


def test_a_connection_is_closed_after_its_number_of_requests(simulate: Callable[..., Client]) -> None:
    client = simulate(max_requests_per_connection=2, ttft_ms=1, itl_ms=1)
    connection = client.connection()
    connection.request("GET", "/health")
    response = connection.getresponse()
    assert response.read() == b""
    assert "connection" not in response.headers
    connection.request("GET", "/health")
    assert connection.getresponse().headers["connection"] == "close"
    connection.close()


def test_pipelined_requests_are_answered_in_order(vllm: Client) -> None:
    data = json.dumps(COMPLETION).encode()
    requests = b"".join(
        b"POST /v1/completions HTTP/1.1\r\nx-request-id: p%d\r\ncontent-length: %d\r\n%b\r\n%b"
        % (number, len(data), b"connection: close\r\n" if number == 2 else b"", data)
        for number in range(3)
    )
    with socket.create_connection(("127.0.0.1", vllm.simulator.port), timeout=10) as sock:
        sock.sendall(requests)
        answers = read_all(sock)
    assert re.findall(rb'"id":"cmpl-(p\d)"', answers) == [b"p0", b"p1", b"p2"]


def test_http_1_0_gets_a_body_that_ends_with_the_connection(vllm: Client) -> None:
    sock = vllm.raw("/v1/completions", COMPLETION | {"stream": True}, "old", version="1.0")
    head, _, body = read_all(sock).partition(b"\r\n\r\n")
    sock.close()
    assert b"transfer-encoding" not in head
    assert payloads(body)[-1] == "[DONE]"


def test_a_client_that_leaves_frees_its_sequence(simulate: Callable[..., Client]) -> None:
    client = simulate(ttft_ms=1, itl_ms=50, model="slow")
    sock = client.raw("/v1/completions", {"prompt": "a", "max_tokens": 10_000, "stream": True}, "gone")
    sock.recv(65536)
    assert client.get("/load")[1] == b'{"server_load":1}'
    sock.close()
    deadline_s = time.monotonic() + 5
    while client.get("/load")[1] != b'{"server_load":0}':
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert b'finished_reason="abort",model_name="slow"} 1.0' in client.get("/metrics")[1]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", 413),
        (b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffff\r\n" + b"x" * 60_000, 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_what_is_too_large_or_no_request_is_refused_and_closed(
    simulate: Callable[..., Client], request_bytes: bytes, status: int
) -> None:
    client = simulate(max_request_bytes=50_000)
    with socket.create_connection(("127.0.0.1", client.simulator.port), timeout=10) as sock:
        sock.sendall(request_bytes)
        assert read_all(sock).startswith(b"HTTP/1.1 %d " % status)


def test_a_client_that_reads_late_gets_every_token_in_its_place(simulate: Callable[..., Client]) -> None:
    """More than the sockets hold is written while nobody reads; all of it comes, in order, other streams unharmed."""
    client = simulate(ttft_ms=1, itl_ms=0)
    late = client.raw("/v1/completions", {"prompt": "a", "max_tokens": 20_000, "stream": True}, "same")
    time.sleep(0.3)
    short = client.events("/v1/completions", {"prompt": "a", "max_tokens": 20}, X_Request_Id="same")
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += late.recv(1 << 20)
    late.close()
    body = re.sub(rb"(?:\r\n)?[0-9a-f]+\r\n(data:|$)", rb"\1", data.partition(b"\r\n\r\n")[2])
    texts = [event["choices"][0]["text"] for event in payloads(body.removesuffix(b"\r\n0\r\n\r\n"))[:-1]]
    assert len(texts) == 20_000
    assert texts[:20] == [event["choices"][0]["text"] for event in short[:-1]]
    assert texts[16:] == texts[:-16]  # an answer's words repeat after 16


def test_a_client_that_expects_100_continue_is_told_to(vllm: Client) -> None:
    with socket.create_connection(("127.0.0.1", vllm.simulator.port), timeout=10) as sock:
        sock.sendall(b"POST /tokenize HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 14\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b'{"prompt":"a"}')
        assert b'"count":1' in sock.recv(1000)
