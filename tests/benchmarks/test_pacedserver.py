"""The server that clients are measured against: it answers as a server does, and its truth adds up."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.pacedserver import PacedServer, compiler
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result

TTFT_S, GAP_S = 0.02, 0.005
TOKENS = 3
PROMPTS = {
    "/v1/completions": {"prompt": [7, 8, 9, 10]},
    "/v1/chat/completions": {"messages": [{"content": '"stream": false'}]},
}


@pytest.fixture(scope="module")
def running() -> Iterator[PacedServer]:
    if compiler() is None:
        pytest.skip("no C compiler")
    with PacedServer(1e3 * TTFT_S, 1e3 * GAP_S) as server:
        yield server


@pytest.fixture
def server(running: PacedServer) -> PacedServer:
    running.reset()
    return running


def answer(server: PacedServer, path: str, **fields: object) -> Result:
    """What our reader makes of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    reader = AnswerReader(TOKENS)
    sent_s = time.perf_counter()
    connection.request("POST", path, json.dumps(PROMPTS[path] | {"max_tokens": TOKENS, **fields}))
    response = connection.getresponse()
    reader.headers(response.status)
    while data := response.read1():
        reader.feed(data, time.perf_counter())
    connection.close()
    return reader.finish(sent_s, time.perf_counter(), whole=True)


@pytest.mark.parametrize("path", PROMPTS)
def test_a_stream_has_its_tokens_its_usage_and_its_end(server: PacedServer, path: str) -> None:
    result = answer(server, path, stream=True, stream_options={"include_usage": True})
    assert (result.outcome, result.finish_reason, result.short) == (Outcome.OK, "length", False)
    assert (result.output_tokens, result.tokens_from, len(result.chunk_times_s)) == (TOKENS, "usage", TOKENS)


@pytest.mark.parametrize("path", PROMPTS)
def test_a_whole_answer_says_the_same(server: PacedServer, path: str) -> None:
    result = answer(server, path)
    assert (result.outcome, result.finish_reason, result.output_tokens) == (Outcome.OK, "length", TOKENS)


def test_the_tokens_of_a_prompt_of_ids_are_counted(server: PacedServer) -> None:
    assert answer(server, "/v1/completions").input_tokens == 4


def test_the_truth_adds_up(server: PacedServer) -> None:
    """Nothing is written before it is due, and an answer's gaps are what lies between its first token and its last."""
    began_s = time.perf_counter()
    for path in PROMPTS:
        answer(server, path, stream=True)
    truth = server.truth()
    assert (server.count(), len(truth.read_s)) == (2, 2)
    assert truth.asked.tolist() == truth.written.tolist() == [TOKENS, TOKENS]
    assert (len(truth.late_s), len(truth.gap_s)) == (2 * TOKENS, 2 * (TOKENS - 1))
    assert began_s < truth.read_s[0] < truth.read_s[1] < time.perf_counter()
    assert (truth.late_s >= 0).all()
    assert (truth.first_s - truth.read_s >= TTFT_S).all()
    assert truth.gap_s.sum() == pytest.approx((truth.last_s - truth.first_s).sum())


def test_what_is_not_there_is_said(server: PacedServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/nothing")
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]["code"]) == (404, 404)
    connection.close()


def test_a_request_in_pieces_is_served_when_it_is_whole(server: PacedServer) -> None:
    body = json.dumps({"prompt": "text " * 20_000, "max_tokens": 1}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:40_000])
    time.sleep(0.02)
    assert server.count() == 0
    connection.send(body[40_000:])
    assert json.loads(connection.getresponse().read())["usage"]["completion_tokens"] == 1
    connection.close()
    assert np.isfinite(server.truth().first_s).all()
