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
from fineserve_shapes.simulator.faults import HTTP_FAULTS, KINDS, FaultDraw, FaultShares, FaultWindow
from fineserve_shapes.simulator.process import SimulatorProcess
from fineserve_shapes.simulator.vocabulary import words

SHARES = FaultShares(dict.fromkeys(KINDS, 1 / (len(KINDS) + 1)))
FLAG = ",".join(f"{kind}={share}" for kind, share in SHARES.shares.items())
BODY = {"prompt": "a", "max_tokens": 20, "stream": True}


def met_by(kind: str | None) -> str:
    """An id of a request that meets this fault."""
    draw = FaultDraw(SHARES, (), seed=7)
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
    assert b"\ndata: [DONE]" not in read_until_quiet(sock)
    sock.close()


def test_comments(faulty: Client) -> None:
    sock = faulty.raw("/v1/completions", BODY, met_by("comments"))
    began, data = time.monotonic(), b""
    while data.count(b": keep-alive\n\n") < 3:
        data += sock.recv(65536)
    sock.close()
    assert b"\ndata: [DONE]" not in data
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
    forward = {name: FaultDraw(shares, (), 1).draw(name)[0] for name in ids}
    backward = {name: FaultDraw(shares, (), 1).draw(name)[0] for name in reversed(ids)}
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


def asked(client: Client, kind: str, **fields: Any) -> bytes:
    """The body that a request gets which asks for a fault in its header, without HTTP framing."""
    path = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
    body = (BODY if "messages" not in fields else {"max_tokens": 20, "stream": True}) | fields
    return client.post(path, body | {"stream_options": {"include_usage": True}}, X_Fault=kind)[2]


@pytest.fixture
def plain(simulate: Callable[..., Client]) -> Client:
    return simulate(ttft_ms=5, itl_ms=1)


def usages(body: bytes) -> list[Any]:
    return [event.get("usage") for event in payloads(body)[:-1]]


def reasons(body: bytes) -> list[Any]:
    return [event["choices"][0]["finish_reason"] for event in payloads(body)[:-1] if event["choices"]]


def test_usage_on_every_chunk_need_not_be_a_running_total(plain: Client) -> None:
    """Zeros, the prompt alone or one each until the last usage, which is right; zero at the end; other names; no chunk."""
    *zeros, last = usages(asked(plain, "usage_zeros"))
    assert {usage["completion_tokens"] for usage in zeros} == {0}
    assert last["completion_tokens"] == 20
    *prompt_only, last = usages(asked(plain, "usage_prompt_only"))
    assert {(usage["prompt_tokens"], usage["completion_tokens"]) for usage in prompt_only} == {(1, 0)}
    assert last["completion_tokens"] == 20
    *ones, last = usages(asked(plain, "usage_ones"))
    assert [usage["completion_tokens"] for usage in ones] == [1] * 20
    assert usages(asked(plain, "usage_final_zero"))[-1]["completion_tokens"] == 0
    assert usages(asked(plain, "usage_renamed"))[-1] == {"input_tokens": 1, "output_tokens": 20, "total_tokens": 21}
    body = asked(plain, "usage_per_choice")
    assert set(map(str, usages(body))) == {"None"}
    *_, complete, _, _ = payloads(body)
    assert complete["choices"][0]["usage"]["completion_tokens"] == 20


def test_finish_reasons_of_the_field(plain: Client) -> None:
    assert reasons(asked(plain, "finish_empty")) == [""] * 19 + ["length"]
    assert reasons(asked(plain, "finish_null_text")) == ["null"] * 19 + ["length"]
    assert reasons(asked(plain, "finish_never")) == [None] * 20
    for reason in ("abort", "error"):
        *others, last = reasons(asked(plain, f"finish_{reason}"))
        assert last == reason
        assert 1 <= len(others) < 20
    *_, usage, error, done = payloads(asked(plain, "error_after_finish"))
    assert (usage["usage"]["completion_tokens"], error["error"]["code"], done) == (20, 500, "[DONE]")


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("done_blank", b"data: [DONE] \n\n"),
        ("done_quoted", b'data: "[DONE]"\n\n'),
        ("no_done", b"}\n\n"),
        ("no_blank", b"\n\ndata:[DONE]\n\n"),
        ("bare_cr", b"\r\rdata: [DONE]\r\r"),
    ],
)
def test_ends_and_lines_of_the_field(plain: Client, kind: str, end: bytes) -> None:
    body = asked(plain, kind)
    assert body.endswith(end)
    assert body.count(b'"text"') == 20


def test_what_stands_between_and_before_tokens(plain: Client) -> None:
    """Fields and comments around events; a frame without choices, an empty piece, heartbeats before the first token."""
    body = asked(plain, "fields")
    assert [body.count(line) for line in (b": ping\n", b"retry: 3000\n", b"event: message\n", b"\nid: 5\n")] == [
        21,
        21,
        21,
        1,
    ]
    first, *_ = payloads(asked(plain, "filter_frame"))
    assert (first["choices"], "prompt_filter_results" in first) == ([], True)
    assert texts(payloads(asked(plain, "empty_first"))[:-1])[0] == ""
    assert [event["choices"][0]["index"] for event in payloads(asked(plain, "index_by_position"))[:-2]] == list(
        range(20)
    )


def test_heartbeats_come_while_the_prompt_is_read(simulate: Callable[..., Client]) -> None:
    slow = simulate(ttft_ms=450, itl_ms=1)
    words = texts(payloads(asked(slow, "heartbeats"))[:-1])
    assert 3 <= words.count("") <= 5
    assert len(words) - words.count("") == 20


def test_reasoning_comes_before_content(plain: Client) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}]}
    for field in ("reasoning_content", "reasoning"):
        _, *chunks = payloads(asked(plain, field, **chat))[:-2]
        kinds = [next(iter(chunk["choices"][0]["delta"])) for chunk in chunks]
        assert kinds == [field] * 10 + ["content"] * 10


def test_a_merged_event_is_no_json(plain: Client) -> None:
    body = asked(plain, "merged_json")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Invalid"):
        payloads(body)
    assert body.endswith(b"data: [DONE]\n\n")


def test_a_pause_loses_no_token(plain: Client) -> None:
    began = time.monotonic()
    body = asked(plain, "pause")
    assert time.monotonic() - began > 0.9
    assert usages(body)[-1]["completion_tokens"] == len(texts(payloads(body)[:-1])) == 20


def test_a_connection_that_stays_open_after_done(plain: Client) -> None:
    body = json.dumps(BODY).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nx-fault: open_after_done\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", plain.simulator.port), timeout=10) as sock:
        sock.sendall(head.encode() + body)
        answer = read_until_quiet(sock)
    assert answer.endswith(b"data: [DONE]\n\n\r\n")


@pytest.mark.parametrize(("kind", "content"), [("html_200", b"<!DOCTYPE html>"), ("empty_200", b"")])
def test_status_200_may_hold_no_answer(plain: Client, kind: str, content: bytes) -> None:
    status, _, body = plain.post("/v1/completions", BODY, X_Fault=kind)
    assert (status, body[:15]) == (200, content)


def test_the_header_goes_before_windows_and_windows_before_shares() -> None:
    windows = [FaultWindow.parse("1m..90s=http_503"), FaultWindow.parse("2m..=stall"), FaultWindow(0.0, 9.0, "down")]
    draw = FaultDraw(FaultShares({"reset": 1.0}), windows, seed=1)
    at = [(0.0, "reset"), (59.9, "reset"), (60.0, "http_503"), (89.9, "http_503"), (90.0, "reset"), (1e9, "stall")]
    assert [draw.draw("x", now_s)[0] for now_s, _ in at] == [kind for _, kind in at]
    assert draw.draw("x", 70.0, "crlf")[0] == "crlf"
    assert draw.draw("x", 0.0, "no such fault")[0] == "reset"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("60s=http_503", "START..END=KIND, as in 60s..90s=http_503, got '60s=http_503'"),
        ("1.2.3..5=stall", "START..END=KIND"),
        ("9..5=stall", "must end after it begins"),
        ("5..9=rust", "unknown fault 'rust'; there are http_500"),
    ],
)
def test_impossible_windows_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        FaultWindow.parse(text)


def test_a_server_that_is_down_comes_back_and_loads() -> None:
    """Down for 0.5 s: streams are reset and connections refused; then 503 while it loads; then all is well."""
    with SimulatorProcess(ttft_ms=1, itl_ms=100, fault_at="1..1.5=down", loading_s=0.4) as simulator:
        client = Client(simulator)
        while client.get("/health")[0] == 503:
            time.sleep(0.02)
        sock = client.raw("/v1/completions", BODY | {"max_tokens": 100}, "cut")
        with pytest.raises(ConnectionResetError):
            read_all(sock)
        sock.close()
        with pytest.raises(ConnectionRefusedError):
            client.get("/health")
        seen = set()
        deadline_s = time.monotonic() + 5
        while 200 not in seen:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
            try:
                seen.add(client.post("/v1/completions", BODY | {"max_tokens": 1})[0])
            except ConnectionRefusedError:
                continue
        assert seen == {503, 200}


def test_every_kind_of_http_fault_is_said_in_the_form_of_the_server(plain: Client) -> None:
    for kind, fault in HTTP_FAULTS.items():
        status, _, body = plain.post("/v1/completions", BODY, X_Fault=kind)
        assert status == fault.status
        assert fault.body is not None or json.loads(body)["error"]["type"] == fault.name


def test_faults_are_read_from_a_flag() -> None:
    assert FaultShares.parse("stall=0.5, reset=0.25").shares == {"stall": 0.5, "reset": 0.25}
    assert FaultShares.parse("").shares == {}
