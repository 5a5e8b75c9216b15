"""What becomes of an answer, on captures of real servers and by law."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from captures import WIRE, exchange, exchanges
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result


def read(pieces: list[bytes], asked: int = 8, status: int = 200, whole: bool = True) -> Result:
    """Read pieces that come at 1 s, 2 s, ...; sent at 0.5 s."""
    reader = AnswerReader(asked)
    reader.headers(status)
    for number, piece in enumerate(pieces, 1):
        reader.feed(piece, float(number))
    return reader.finish(0.5, len(pieces) + 1.0, whole=whole)


def tokens(*texts: str, finish: str | None = "length") -> list[bytes]:
    last = len(texts) - 1
    return [
        b"data: %s\n\n"
        % json.dumps(
            {"choices": [{"index": 0, "text": text, "finish_reason": finish if number == last else None}]}
        ).encode()
        for number, text in enumerate(texts)
    ]


def usage(count: int) -> bytes:
    return b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\n' % count


@pytest.mark.parametrize(
    ("name", "title", "output_tokens", "tokens_from", "chunks", "reason", "input_tokens"),
    [
        ("vllm.txt", "completions stream+usage", 8, "usage", 8, "length", 2),
        ("vllm.txt", "token ids, continuous usage", 4, "usage", 4, "length", 4),
        ("vllm.txt", "chat stream+usage", 8, "usage", 8, "length", 10),
        ("vllm.txt", "completions nonstream", 8, "usage", 0, "length", 2),
        ("vllm.txt", "return_token_ids", 3, "chunks", 3, "length", None),
        ("vllm.txt", "chat stream without usage", 2, "chunks", 2, "length", None),
        ("vllm.txt", "batch prompts n=2", 8, "usage", 8, "length", 2),
        ("vllm-options.txt", "stream-interval 5, per-request metrics", 12, "usage", 4, "length", 2),
        ("vllm-options.txt", "queued: keep-alive comments", 12, "usage", 4, "length", 2),
        ("transformers-serve.txt", "completions stream+usage", 8, "usage", 7, "length", 2),
        ("transformers-serve.txt", "chat stream+usage", 8, "usage", 8, "length", 10),
        ("transformers-serve.txt", "odd stop stream", 1, "usage", 1, "stop", 1),
    ],
)
def test_captured_answers_are_read_as_their_servers_meant(
    name: str, title: str, output_tokens: int, tokens_from: str, chunks: int, reason: str, input_tokens: int | None
):
    result = read([exchange(name, title).body])
    assert (result.outcome, result.error) == ("ok", None)
    assert (result.output_tokens, result.tokens_from) == (output_tokens, tokens_from)
    assert len(result.chunk_times_s) == chunks
    assert (result.finish_reason, result.input_tokens) == (reason, input_tokens)


@pytest.mark.parametrize("name", ["vllm.txt", "vllm-options.txt", "vllm-engine-dead.txt", "transformers-serve.txt"])
def test_every_captured_error_has_its_text(name: str):
    for found in exchanges(name):
        result = read([found.body], status=found.status)
        assert (result.outcome == "http_error") == (found.status >= 400)
        assert (result.error is None) == (result.outcome == "ok")


def test_an_engine_that_dies_in_mid_stream_is_no_success():
    """Tokens came, then an error event, then [DONE]."""
    framed = (WIRE / "vllm-midstream-kill.txt").read_bytes().replace(b"\r\n", b"\n")
    body = b"".join(line + b"\n\n" for line in framed.split(b"\n") if line.startswith(b"data:"))
    result = read([body])
    assert result.outcome == "stream_error"
    assert result.error.startswith("EngineCore encountered an issue")
    assert len(result.chunk_times_s) > 5


def test_server_metrics_are_kept():
    result = read([exchange("vllm-options.txt", "stream-interval 5, per-request metrics").body])
    assert result.server_metrics["mean_itl_ms"] == pytest.approx(5.69, abs=0.01)


streams = ["completions stream+usage", "token ids, continuous usage", "chat stream+usage", "batch prompts n=2"]


@given(st.sampled_from(streams), st.lists(st.integers(0, 3000), max_size=6))
def test_every_split_of_an_answer_gives_the_same_result(title: str, places: list[int]):
    body = exchange("vllm.txt", title).body
    edges = [0, *sorted(place % len(body) for place in places), len(body)]
    result = read([body[a:b] for a, b in pairwise(edges)])
    whole = read([body])
    for name in ("outcome", "output_tokens", "tokens_from", "input_tokens", "finish_reason", "first_chunk_tokens"):
        assert getattr(result, name) == getattr(whole, name)
    assert len(result.chunk_times_s) == len(whole.chunk_times_s)


def test_times_are_those_of_chunks_with_tokens():
    result = read([*tokens("a", "b", "c"), usage(3), b"data: [DONE]\n\n"], asked=3)
    assert (result.ttft_s, result.tpot_s, result.e2e_s) == (0.5, 1.0, 4.5)
    assert result.itl_s.tolist() == [1.0, 1.0]
    assert not result.short


def test_a_role_chunk_is_no_first_token():
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    content = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    result = read([role, content])
    assert (result.first_token_s, result.ttft_s) == (2.0, 1.5)


def test_reasoning_is_a_first_token_but_no_visible_one():
    hidden = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n'
    shown = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    result = read([hidden, shown])
    assert (result.first_token_s, result.first_visible_s) == (1.0, 2.0)


def test_one_token_has_no_time_per_token():
    result = read([*tokens("a"), usage(1)], asked=1)
    assert result.tpot_s is None
    assert result.itl_s.size == 0


def test_an_empty_finish_chunk_is_a_token_where_usage_says_so():
    """One token was asked for, and its text is empty: vLLM sends it with the finish_reason."""
    result = read([*tokens(""), usage(1)], asked=1)
    assert (result.first_token_s, result.output_tokens, result.tpot_s) == (1.0, 1, None)


def test_an_empty_finish_chunk_alone_is_no_token():
    assert read(tokens("")).first_token_s is None


def test_tpot_counts_tokens_not_chunks():
    """Two chunks of which the second holds nine tokens by usage: nine tokens in one second."""
    result = read([*tokens("a", "bcdefghij"), usage(10)], asked=10)
    assert result.tpot_s == pytest.approx(1 / 9)
    assert not result.first_chunk_known


def test_an_answer_shorter_than_asked_is_marked():
    assert read([*tokens("a", finish="stop"), usage(1)], asked=5).short


@pytest.mark.parametrize(
    ("pieces", "whole", "error"),
    [
        (tokens("a", finish=None), False, "the connection ended in the middle of the answer"),
        (tokens("a", finish=None), True, "the answer ended without a finish_reason"),
        ([*tokens("", finish=None), b"data: [DONE]\n\n"], True, "the answer ended without a finish_reason"),
        ([], True, "the answer holds no choice"),
        ([b"data: [DONE]\n\n"], True, "the answer holds no choice"),
        ([b"data: nonsense\n\n"], True, "not an OpenAI event: b'nonsense'"),
        ([b'{"error":{"message":"as JSON"}}'], True, "as JSON"),
        ([b'{"choices":[{"te'], False, 'not an OpenAI event: b\'{"choices":[{"te\''),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(pieces: list[bytes], whole: bool, error: str):
    result = read(pieces, whole=whole)
    assert (result.outcome, result.error) == ("stream_error", error)


def test_a_finish_reason_is_enough_without_done():
    assert read(tokens("a", "b"), whole=False).outcome == "ok"


def test_comments_are_no_progress():
    reader = AnswerReader(8)
    reader.headers(200)
    assert not reader.feed(b": keep-alive\n\n", 1.0)
    assert reader.feed(tokens("a")[0], 2.0)


def test_a_server_that_never_stops_is_given_up():
    reader = AnswerReader(asked_tokens=10)
    reader.headers(200)
    chunk = tokens("a", finish=None)[0]
    for number in range(5000):
        reader.feed(chunk, float(number))
        if reader.hopeless:
            break
    assert reader.finish(0.0, 1.0, whole=False).error == "1045 tokens came where 10 were asked for"


def test_a_deadline_after_an_error_event_is_the_error():
    reader = AnswerReader(8)
    reader.headers(200)
    reader.feed(b'data: {"error":"boom"}\n\n', 1.0)
    assert reader.stop("timeout", "no progress", 0.0, 2.0).outcome == "stream_error"


def test_an_error_body_is_kept_in_bounded_memory():
    reader = AnswerReader(8)
    reader.headers(500)
    for _ in range(100):
        reader.feed(b"x" * 10_000, 1.0)
    assert reader.hopeless
    assert len(reader.finish(0.0, 1.0, whole=True).error) <= 310
