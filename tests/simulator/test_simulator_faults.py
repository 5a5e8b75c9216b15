"""Every fault once, as a client meets it; and which request meets which."""

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from simulator_client import Client, payloads, read_all

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.faults import KINDS, FaultDraw, FaultShares
from fineserve_shapes.simulator.vocabulary import words

SHARES = FaultShares(dict.fromkeys(KINDS, 1 / (len(KINDS) + 1)))
FLAG = ",".join(f"{kind}={share}" for kind, share in SHARES.shares.items())
BODY = {"prompt": "a", "max_tokens": 20, "stream": True}


def met_by(kind: str | None) -> str:
    """An id of a request that meets this fault."""
    draw = FaultDraw(SHARES, seed=7)
    return next(f"run-{n}" for n in range(10_000) if draw.draw(f"run-{n}")[0] == kind)


@pytest.fixture
def faulty(simulate: Callable[..., Client]) -> Client:
    """One simulator in which every kind of fault is as likely as none."""
    return simulate(fault=FLAG, seed=7, ttft_ms=5, itl_ms=1, hostile_text=True)


def stream(client: Client, kind: str) -> list[Any]:
    return client.events("/v1/completions", BODY, X_Request_Id=met_by(kind))


def texts(events: list[Any]) -> list[str]:
    return [event["choices"][0]["text"] for event in events if event.get("choices")]


def read_until_quiet(sock: socket.socket, quiet_s: float = 0.3) -> bytes:
    data = b""
    sock.settimeout(quiet_s)
    try:
        while piece := sock.recv(65536):
            data += piece
    except TimeoutError:
        return data
    raise AssertionError("the server closed the connection")


def test_no_fault_for_those_who_draw_none(faulty: Client) -> None:
    events = faulty.events("/v1/completions", BODY, X_Request_Id=met_by(None))
    assert len(texts(events[:-1])) == 20


def test_http_500(faulty: Client) -> None:
    status, _, body = faulty.post("/v1/completions", BODY, X_Request_Id=met_by("http_500"))
    assert (status, json.loads(body)["error"]["code"]) == (500, 500)


def test_http_429_says_when_to_retry_and_a_retry_draws_anew(faulty: Client) -> None:
    statuses = []
    for _ in range(8):
        status, headers, _ = faulty.post("/v1/completions", BODY | {"stream": False}, X_Request_Id=met_by("http_429"))
        statuses.append(status)
        if status == 429:
            assert headers["retry-after"] == "1"
    assert statuses[0] == 429
    assert 200 in statuses


def test_error_midstream(faulty: Client) -> None:
    *tokens, error, done = stream(faulty, "error_midstream")
    assert 1 <= len(tokens) < 20
    assert error["error"]["code"] == 500
    assert done == "[DONE]"


def test_error_midstream_no_done(faulty: Client) -> None:
    *tokens, error = stream(faulty, "error_midstream_no_done")
    assert 1 <= len(tokens) < 20
    assert isinstance(error["error"], str)


def test_truncate(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("truncate"))
    data = read_all(sock)
    sock.close()
    assert not data.endswith(b"0\r\n\r\n")
    assert data.endswith(b'data: {"id":"')


def test_reset(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("reset"))
    with pytest.raises(ConnectionResetError):
        read_all(sock)
    sock.close()


def test_stall(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("stall"))
    assert b"[DONE]" not in read_until_quiet(sock)
    sock.close()


def test_comments(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("comments"))
    began, data = time.monotonic(), b""
    while data.count(b": keep-alive\n\n") < 3:
        data += sock.recv(65536)
    sock.close()
    assert b"[DONE]" not in data
    assert time.monotonic() - began < 5


def test_crlf(faulty: Client) -> None:
    _, _, body = faulty.post("/v1/completions", BODY, X_Request_Id=met_by("crlf"))
    assert b"\n" not in body.replace(b"\r\n", b"")
    assert len(texts(payloads(body.replace(b"\r\n", b"\n"))[:-1])) == 20


def test_split_json(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("split_json"))
    raw = b""
    while not raw.endswith(b"\r\n0\r\n\r\n"):
        raw += sock.recv(65536)
    sock.close()
    sizes = re.findall(rb"(?:^|\r\n)([0-9a-f]+)\r\n", raw.partition(b"\r\n\r\n")[2])
    assert len(sizes) > 2 * 21
    assert len(texts(stream(faulty, "split_json")[:-1])) == 20


def test_multi_token(faulty: Client) -> None:
    counts = [len(words(text)) for text in texts(stream(faulty, "multi_token")[:-1])]
    assert counts == [1, 4, 4, 4, 4, 3]


def test_empty_text(faulty: Client) -> None:
    words = texts(stream(faulty, "empty_text")[:-1])
    assert len(words) == 20
    assert 4 <= words.count("") <= 10


def test_garbage(faulty: Client) -> None:
    _, _, body = faulty.post("/v1/completions", BODY, X_Request_Id=met_by("garbage"))
    with pytest.raises(ValueError, match=r"codec|Expecting|Invalid|Extra"):
        payloads(body)


def test_garbage_framing(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("garbage_framing"))
    assert read_all(sock).endswith(b"this is no chunk size\r\n\xff\xfe")
    sock.close()


def test_endless(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("endless"))
    data = b""
    while data.count(b"data: ") < 100:
        data += sock.recv(65536)
    sock.close()
    assert b'"finish_reason":"length"' not in data


def test_slow_headers(faulty: Client) -> None:
    began = time.monotonic()
    events = stream(faulty, "slow_headers")
    assert time.monotonic() - began > 0.9
    assert len(texts(events[:-1])) == 20


def test_http_1_0(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("http_1_0"))
    data = read_all(sock)
    sock.close()
    assert data.startswith(b"HTTP/1.0 200 OK\r\n")
    assert payloads(data.partition(b"\r\n\r\n")[2])[-1] == "[DONE]"


def test_faults_depend_on_the_id_and_come_as_often_as_asked() -> None:
    """10,000 ids: each kind within 4.5 standard deviations (a false alarm in some 10,000 seeds)."""
    shares = FaultShares({"stall": 0.1, "reset": 0.05, "http_500": 0.2})
    ids = [f"run-{n}" for n in range(10_000)]
    forward = {name: FaultDraw(shares, 1).draw(name)[0] for name in ids}
    backward = {name: FaultDraw(shares, 1).draw(name)[0] for name in reversed(ids)}
    assert forward == backward
    counts = Counter(forward.values())
    for kind, share in shares.shares.items():
        assert counts[kind] == pytest.approx(10_000 * share, abs=4.5 * (10_000 * share * (1 - share)) ** 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stall", "KIND=PROBABILITY, got 'stall'"),
        ("stall=x", "got 'stall=x'"),
        ("rust=0.1", "unknown fault 'rust'"),
        ("stall=1.1", "in 0..1, got 1.1"),
        ("stall=0.7,reset=0.7", "add up to 1.4"),
    ],
)
def test_impossible_faults_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FaultShares.parse(text)


def test_faults_are_read_from_a_flag() -> None:
    assert FaultShares.parse("stall=0.5, reset=0.25").shares == {"stall": 0.5, "reset": 0.25}
    assert FaultShares.parse("").shares == {}
