"""The wire form, compared with what was captured from vLLM."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from simulator_client import Client
from wireforms import (
    CHAT,
    COMPLETION,
    USAGE,
    VLLM_CHAT,
    VLLM_CHAT_LAST,
    VLLM_CHUNK,
    VLLM_CONTINUOUS,
    VLLM_LAST,
    VLLM_LAST_WITHOUT_USAGE,
    VLLM_METRICS_USAGE,
    VLLM_ROLE,
    VLLM_TOKEN_IDS,
    VLLM_USAGE,
    VLLM_WHOLE,
    shape,
    shape_of,
)

from fineserve_shapes.simulator.vocabulary import HOSTILE, PLAIN, Vocabulary, id_of, words


def test_a_completion_streams_as_vllm_does(vllm: Client) -> None:
    *tokens, last, usage, done = vllm.events("/v1/completions", COMPLETION | USAGE)
    assert [shape(token) for token in tokens] == [shape_of(VLLM_CHUNK)] * 7
    assert shape(last) == shape_of(VLLM_LAST)
    assert shape(usage) == shape_of(VLLM_USAGE)
    assert usage["usage"] == {"prompt_tokens": 2, "total_tokens": 10, "completion_tokens": 8}
    assert done == "[DONE]"


def test_without_usage_the_last_chunk_has_the_fingerprint(vllm: Client) -> None:
    *_, last, done = vllm.events("/v1/completions", COMPLETION)
    assert shape(last) == shape_of(VLLM_LAST_WITHOUT_USAGE)
    assert done == "[DONE]"


def test_continuous_usage_counts_on_every_chunk(vllm: Client) -> None:
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    *tokens, usage, _ = vllm.events("/v1/completions", COMPLETION | options | {"prompt": [5, 6, 7, 8]})
    assert shape(tokens[0]) == shape_of(VLLM_CONTINUOUS)
    assert [token["usage"]["completion_tokens"] for token in tokens] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {token["usage"]["prompt_tokens"] for token in tokens} == {4}
    assert shape(usage) == shape_of(VLLM_USAGE)


def test_token_ids_are_returned_when_asked_for(vllm: Client) -> None:
    first, second, *_ = vllm.events("/v1/completions", COMPLETION | {"return_token_ids": True, "prompt": [767, 580]})
    assert shape(first) == shape_of(VLLM_TOKEN_IDS)
    assert first["choices"][0]["prompt_token_ids"] == [767, 580]
    assert second["choices"][0]["prompt_token_ids"] is None
    assert second["choices"][0]["token_ids"] == [id_of(word) for word in words(second["choices"][0]["text"])]


def test_a_chat_streams_as_vllm_does(vllm: Client) -> None:
    role, *tokens, last, usage, done = vllm.events("/v1/chat/completions", CHAT | USAGE)
    assert shape(role) == shape_of(VLLM_ROLE)
    assert [shape(token) for token in tokens] == [shape_of(VLLM_CHAT)] * 7
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 8
    assert done == "[DONE]"
    *_, last, _ = vllm.events("/v1/chat/completions", CHAT)
    assert shape(last) == shape_of(VLLM_CHAT_LAST)


def test_the_role_chunk_comes_in_the_write_of_the_first_token(simulate: Callable[..., Client]) -> None:
    sock = simulate(model="tiny", ttft_ms=300, itl_ms=1).raw("/v1/chat/completions", CHAT | {"stream": True}, "role")
    head = sock.recv(65536)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    first = sock.recv(65536)
    assert first.count(b"data: ") >= 2
    assert b'"role":"assistant"' in first
    sock.close()


def test_whole_answers_have_vllms_keys(vllm: Client) -> None:
    _, _, body = vllm.post("/v1/completions", COMPLETION)
    answer = json.loads(body)
    captured = json.loads(VLLM_WHOLE)
    assert answer.keys() == captured.keys()
    assert answer["choices"][0].keys() == captured["choices"][0].keys()
    assert answer["usage"] == captured["usage"]
    assert len(words(answer["choices"][0]["text"])) == 8
    _, _, body = vllm.post("/v1/chat/completions", CHAT)
    message = json.loads(body)["choices"][0]["message"]
    assert (message["role"], len(words(message["content"]))) == ("assistant", 8)


def test_streamed_and_whole_answers_say_the_same(vllm: Client) -> None:
    chunks = vllm.events("/v1/completions", COMPLETION, X_Request_Id="same")[:-1]
    _, _, body = vllm.post("/v1/completions", COMPLETION, X_Request_Id="same")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == json.loads(body)["choices"][0]["text"]


def test_the_servers_own_figures_come_with_the_usage(simulate: Callable[..., Client]) -> None:
    client = simulate(model="tiny", ttft_ms=20, itl_ms=5, per_request_metrics=True)
    *_, usage, _ = client.events("/v1/completions", COMPLETION | USAGE)
    assert shape(usage) == shape_of(VLLM_METRICS_USAGE)
    assert 20 <= usage["metrics"]["time_to_first_token_ms"] < 1000
    assert 0 < usage["metrics"]["mean_itl_ms"] < 100


def test_a_stream_interval_gathers_tokens(simulate: Callable[..., Client]) -> None:
    """As vLLM with --stream-interval 5: 12 tokens come as 1, 5, 5, 1."""
    client = simulate(model="tiny", ttft_ms=5, itl_ms=1, stream_interval=5)
    chunks = client.events("/v1/completions", COMPLETION | {"max_tokens": 12})[:-1]
    assert [len(words(chunk["choices"][0]["text"])) for chunk in chunks] == [1, 5, 5, 1]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "a", "max_tokens": 0},
            400,
            {"message": "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
             "type": "BadRequestError", "param": "max_tokens", "code": 400},
        ),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "a", "max_tokens": 3000, "stream": True},
            400,
            {"message": "max_tokens=3000 cannot be greater than max_model_len=2048. Please request fewer output tokens. "
                        "(parameter=max_tokens, value=3000)",
             "type": "BadRequestError", "param": "max_tokens", "code": 400},
        ),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "a " * 2049, "max_tokens": 8},
            400,
            {"message": "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 "
                        "input tokens, which exceeds this limit even without any output tokens. Please reduce the length "
                        "of the input prompt. (parameter=input_tokens, value=2049)",
             "type": "BadRequestError", "param": "input_tokens", "code": 400},
        ),
        (
            "/v1/completions",
            {"model": "nope", "prompt": "import os", "max_tokens": 8},
            404,
            {"message": "The model `nope` does not exist. Valid aliases: tiny.", "type": "NotFoundError",
             "param": "model", "code": 404},
        ),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "", "max_tokens": 4},
            400,
            {"message": "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
             "type": "BadRequestError", "param": "prompt", "code": 400},
        ),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "import os", "max_tokens": 8, "min_tokens": 9},
            400,
            {"message": "min_tokens must be less than or equal to max_tokens=8, got 9.", "type": "BadRequestError",
             "param": None, "code": 400},
        ),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "a", "max_tokens": 4, "stream_options": {"include_usage": True}},
            400,
            {"message": "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
             "type": "BadRequestError", "param": "stream_options", "code": 400},
        ),
        (
            "/v1/chat/completions",
            {"model": "tiny", "messages": [], "max_tokens": 4},
            400,
            {"message": "Cannot apply chat template to an empty conversation. Provide at least one message.",
             "type": "BadRequestError", "param": None, "code": 400},
        ),
    ],
)  # fmt: skip
def test_refusals_are_vllms_word_for_word(
    vllm: Client, path: str, body: dict[str, Any], status: int, error: dict[str, Any]
) -> None:
    got, _, answer = vllm.post(path, body)
    assert (got, json.loads(answer)) == (status, {"error": error})


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"tiny","prompt":"import os","max_tokens":',
        b"[1, 2]",
        {"model": "tiny", "prompt": "a", "max_tokens": "four"},
        {"model": "tiny", "prompt": "a", "max_tokens": True},
        {"model": "tiny", "prompt": ["a", "b"]},
        {"model": "tiny", "prompt": [[1], [2]]},
        {"model": "tiny", "prompt": {"a": 1}},
        {"model": "tiny", "prompt": [-1]},
        {"model": "tiny", "prompt": "a", "n": 2},
        {"model": "tiny", "prompt": "a " * 2000, "max_tokens": 100},
    ],
)
def test_other_bad_requests_are_400_with_vllms_keys(vllm: Client, body: object) -> None:
    status, _, answer = vllm.post("/v1/completions", body)
    assert status == 400
    assert json.loads(answer)["error"].keys() == {"message", "type", "param", "code"}


def test_lengths_default_as_in_vllm(vllm: Client) -> None:
    """Completions give 16 tokens; a chat takes max_completion_tokens before max_tokens; unknown fields are ignored."""
    chunks = vllm.events("/v1/completions", {"prompt": "a", "foo": 1})
    assert len(chunks) == 16 + 1
    chunks = vllm.events("/v1/chat/completions", CHAT | {"max_completion_tokens": 3})
    assert len(chunks) == 1 + 3 + 1


def test_text_parts_of_a_chat_are_counted(vllm: Client) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a b"}, {"type": "image_url"}]}
    *_, usage, _ = vllm.events("/v1/chat/completions", CHAT | USAGE | {"messages": [message, {"role": "user"}]})
    assert usage["usage"]["prompt_tokens"] == 2 + 4 + 4


def test_the_request_id_is_taken_and_echoed(vllm: Client) -> None:
    status, headers, answer = vllm.post("/v1/completions", COMPLETION, X_Request_Id="run-17")
    assert (status, headers["x-request-id"], json.loads(answer)["id"]) == (200, "run-17", "cmpl-run-17")
    _, headers, answer = vllm.post("/v1/chat/completions", CHAT)
    assert json.loads(answer)["id"] == "chatcmpl-" + headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])


def test_small_routes(vllm: Client) -> None:
    assert vllm.get("/health") == (200, b"")
    assert vllm.get("/ping") == (200, b"")
    assert vllm.get("/version") == (200, b'{"version":"0.32.0"}')
    assert vllm.get("/v1/nope") == (404, b'{"detail":"Not Found"}')
    assert vllm.get("/v1/completions") == (405, b'{"detail":"Method Not Allowed"}')
    status, body = vllm.get("/v1/models?x=1")
    (model,) = json.loads(body)["data"]
    assert (status, model["id"], model["max_model_len"]) == (200, "tiny", 2048)


def test_tokenize_agrees_with_usage(vllm: Client) -> None:
    prompt = "two  words\nand a\u2028b 東京"
    _, _, body = vllm.post("/tokenize", {"model": "tiny", "prompt": prompt})
    tokenized = json.loads(body)
    assert tokenized["count"] == len(tokenized["tokens"]) == 5
    *_, usage, _ = vllm.events("/v1/completions", COMPLETION | USAGE | {"prompt": prompt})
    assert usage["usage"]["prompt_tokens"] == 5
    _, _, body = vllm.post("/tokenize", {"messages": CHAT["messages"]})
    *_, usage, _ = vllm.events("/v1/chat/completions", CHAT | USAGE)
    assert json.loads(body)["count"] == usage["usage"]["prompt_tokens"] == 5
    assert vllm.post("/tokenize", {"prompt": 5})[0] == 400


@pytest.mark.parametrize("vocabulary", [PLAIN, HOSTILE])
def test_every_generated_token_counts_as_one(vocabulary: Vocabulary) -> None:
    assert [[id_of(word) for word in words(text)] for text in vocabulary.texts] == [[token] for token in vocabulary.ids]


def test_text_is_plain_unless_hostile_text_is_asked_for(vllm: Client, simulate: Callable[..., Client]) -> None:
    """Plain text has one way to be split into lines and needs no escapes; hostile text has neither."""
    hostile = simulate(model="tiny", ttft_ms=1, itl_ms=0, hostile_text=True)
    bodies = [
        b"".join(
            client.post("/v1/completions", COMPLETION | {"stream": True, "max_tokens": 16}, X_Request_Id=f"r{n}")[2]
            for n in range(40)
        )
        for client in (vllm, hostile)
    ]
    plain, hostile_body = (body.decode() for body in bodies)
    assert plain.splitlines() == plain.split("\n")[:-1]
    assert "\\" not in plain
    assert len(hostile_body.splitlines()) > hostile_body.count("\n")
    assert "\\" in hostile_body


def test_metrics_have_vllms_names_and_count(simulate: Callable[..., Client]) -> None:
    client = simulate(model='we"ird', max_model_len=512, kv_cache_tokens=600, max_num_seqs=8, decode_step_ms=2)
    client.events("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 7})
    status, body = client.get("/metrics")
    values = dict(re.findall(r"^(vllm:\w+)\{[^}]*\} (\S+)$", body.decode(), re.MULTILINE))
    assert status == 200
    assert 'vllm:num_requests_running{engine="0",model_name="we\\"ird"} 0.0' in body.decode()
    assert float(values["vllm:prompt_tokens_total"]) == 3
    assert float(values["vllm:generation_tokens_total"]) == 7
    assert float(values["vllm:inter_token_latency_seconds_count"]) == 6
    assert float(values["vllm:time_to_first_token_seconds_count"]) == 1
    assert values.keys() >= {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"}
    assert 'finished_reason="length",model_name="we\\"ird"} 1.0' in body.decode()


def test_the_key_is_wanted_under_v1_only(simulate: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATOR_KEY", "secret")
    client = simulate(api_key_env="SIMULATOR_KEY", ttft_ms=1, itl_ms=1)
    assert client.get("/v1/models") == (401, b'{"error":"Unauthorized"}')
    assert client.get("/v1/models", Authorization="Bearer wrong")[0] == 401
    assert client.get("/v1/models", Authorization="Bearer secret")[0] == 200
    assert client.get("/health")[0] == 200


def test_streams_may_end_early_unless_eos_is_ignored(simulate: Callable[..., Client]) -> None:
    client = simulate(eos_probability=0.2, ttft_ms=1, itl_ms=0)
    body = {"prompt": "a", "max_tokens": 200}
    *_, last, _ = client.events("/v1/completions", body, X_Request_Id="early")
    again = client.events("/v1/completions", body, X_Request_Id="early")
    assert last["choices"][0]["finish_reason"] == "stop"
    assert again[-2]["choices"][0]["finish_reason"] == "stop"
    early = len(again) - 1
    assert early < 200
    assert len(client.events("/v1/completions", body | {"ignore_eos": True}, X_Request_Id="early")) == 201
    assert len(client.events("/v1/completions", body | {"min_tokens": early + 5}, X_Request_Id="early")) == early + 6
