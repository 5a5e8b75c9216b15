"""The wire form, compared with what was captured from vLLM 0.32.0 and `transformers serve` 5.23."""

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from simulator_client import Client, payloads, read_all

from fineserve_shapes.simulator.vocabulary import HOSTILE, PLAIN, Vocabulary, id_of, words

# fmt: off
VLLM_CHUNK = r'{"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":[{"index":0,"text":"hen","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}'  # noqa: E501
VLLM_LAST = r'{"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":[{"index":0,"text":" std","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}'  # noqa: E501
VLLM_USAGE = r'{"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":[],"usage":{"prompt_tokens":2,"total_tokens":10,"completion_tokens":8},"system_fingerprint":"vllm-0.32.0-3a22dd85"}'  # noqa: E501
VLLM_CONTINUOUS = r'{"id":"cmpl-957c2b7820963cf3","object":"text_completion","created":1795328388,"model":"tiny","choices":[{"index":0,"text":"TYPE","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"usage":{"prompt_tokens":4,"total_tokens":5,"completion_tokens":1}}'  # noqa: E501
VLLM_LAST_WITHOUT_USAGE = r'{"id":"cmpl-af8ca9a3bd9414fa","object":"text_completion","created":1795328472,"model":"tiny","choices":[{"index":0,"text":"crement","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-3a22dd85"}'  # noqa: E501
VLLM_TOKEN_IDS = r'{"id":"cmpl-8b56231181686a38","object":"text_completion","created":1795328424,"model":"tiny","choices":[{"index":0,"text":" keep","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":[767,580],"token_ids":[3304]}]}'  # noqa: E501
VLLM_ROLE = r'{"id":"chatcmpl-80f351e65e79380f","object":"chat.completion.chunk","created":1795328388,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}'  # noqa: E501
VLLM_CHAT = r'{"id":"chatcmpl-80f351e65e79380f","object":"chat.completion.chunk","created":1795328388,"model":"tiny","choices":[{"index":0,"delta":{"content":" remo"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'  # noqa: E501
VLLM_CHAT_LAST = r'{"id":"chatcmpl-8e796e9f9599f53e","object":"chat.completion.chunk","created":1795328473,"model":"tiny","choices":[{"index":0,"delta":{"content":"ugh"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-3a22dd85"}'  # noqa: E501
VLLM_METRICS_USAGE = r'{"id":"cmpl-b54ddc9671da7477","object":"text_completion","created":1795328644,"model":"tiny","choices":[],"usage":{"prompt_tokens":2,"total_tokens":14,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":"vllm-0.32.0-334ccd53","metrics":{"time_to_first_token_ms":37.34902199994394,"generation_time_ms":62.60196800008089,"queue_time_ms":0.04450599999472615,"mean_itl_ms":5.691088000007353,"tokens_per_second":120.05884083786482}}'  # noqa: E501
VLLM_WHOLE = r'{"id":"cmpl-adb60b4261037914","object":"text_completion","created":1795328388,"model":"tiny","choices":[{"index":0,"text":":","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-3a22dd85","usage":{"prompt_tokens":2,"total_tokens":10,"completion_tokens":8,"prompt_tokens_details":null,"completion_tokens_details":null},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'  # noqa: E501
HF_CHUNK = r'{"id":"0bf59d87-7675-49bd-b543-df6411f1cfae","choices":[{"index":0,"text":"ri"}],"created":1795328088,"model":"/opt/models1/tiny@main","object":"text_completion"}'  # noqa: E501
HF_FINISH = r'{"id":"0bf59d87-7675-49bd-b543-df6411f1cfae","choices":[{"finish_reason":"length","index":0,"text":""}],"created":1795328088,"model":"/opt/models1/tiny@main","object":"text_completion","usage":{"completion_tokens":8,"prompt_tokens":2,"total_tokens":10}}'  # noqa: E501
HF_ROLE = r'{"id":"73af389c-bcc6-4751-b6cf-9bb480bcbf1d","choices":[{"delta":{"role":"assistant"},"index":0}],"created":1795328090,"model":"/opt/models1/tiny@main","object":"chat.completion.chunk","system_fingerprint":""}'  # noqa: E501
HF_CHAT = r'{"id":"73af389c-bcc6-4751-b6cf-9bb480bcbf1d","choices":[{"delta":{"content":"eof"},"index":0}],"created":1795328090,"model":"/opt/models1/tiny@main","object":"chat.completion.chunk","system_fingerprint":""}'  # noqa: E501
HF_CHAT_FINISH = r'{"id":"73af389c-bcc6-4751-b6cf-9bb480bcbf1d","choices":[{"delta":{},"index":0,"finish_reason":"length"}],"created":1795328090,"model":"/opt/models1/tiny@main","object":"chat.completion.chunk","system_fingerprint":"","usage":{"completion_tokens":8,"prompt_tokens":10,"total_tokens":18}}'  # noqa: E501
HF_WHOLE = r'{"id":"0625380f-333d-41bf-9373-15a683a79057","choices":[{"finish_reason":"length","index":0,"text":"x"}],"created":1795328089,"model":"/opt/models1/tiny@main","object":"text_completion","usage":{"completion_tokens":8,"prompt_tokens":2,"total_tokens":10}}'  # noqa: E501
# fmt: on


def shape(value: Any) -> Any:
    """Keys, in order, and types; what varies from answer to answer is left out."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def shape_of(captured: str) -> Any:
    return shape(json.loads(captured))


COMPLETION = {"model": "tiny", "prompt": "import os", "max_tokens": 8, "ignore_eos": True}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "ignore_eos": True}
USAGE = {"stream_options": {"include_usage": True}}


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


# transformers serve


def test_a_completion_streams_as_transformers_serve_does(transformers: Client) -> None:
    *tokens, finish = transformers.events("/v1/completions", {"model": "tiny", "prompt": "import os", "max_tokens": 8})
    assert [shape(token) for token in tokens] == [shape_of(HF_CHUNK)] * 8
    assert shape(finish) == shape_of(HF_FINISH)
    assert finish["usage"] == {"completion_tokens": 8, "prompt_tokens": 2, "total_tokens": 10}


def test_a_chat_streams_as_transformers_serve_does(transformers: Client) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    role, *tokens, finish = transformers.events("/v1/chat/completions", body)
    assert shape(role) == shape_of(HF_ROLE)
    assert [shape(token) for token in tokens] == [shape_of(HF_CHAT)] * 8
    assert shape(finish) == shape_of(HF_CHAT_FINISH)


def test_the_role_chunk_comes_before_generation(simulate: Callable[..., Client]) -> None:
    client = simulate(ttft_ms=300, itl_ms=1, dialect="transformers")
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": True}
    sock = client.raw("/v1/chat/completions", body, "role")
    first = sock.recv(65536)
    assert b'{"role":"assistant"}' in first
    assert b'"content"' not in first
    sock.close()


def test_whole_answers_as_transformers_serve(transformers: Client) -> None:
    _, _, body = transformers.post("/v1/completions", {"prompt": "import os", "max_tokens": 8})
    assert shape(json.loads(body)) == shape_of(HF_WHOLE)


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        ({"prompt": [5, 6], "max_tokens": 8}, 400, {"detail": "prompt must be a string."}),
        (
            {"prompt": "a", "ignore_eos": True},
            422,
            {"detail": "Unexpected fields in the request: {'ignore_eos'}"},
        ),
        ({"prompt": "a", "min_tokens": 8}, 422, {"detail": "Unexpected fields in the request: {'min_tokens'}"}),
        ({"prompt": "a", "model": "nope"}, 400, {"detail": "Server is pinned to 'tiny'; requested 'nope'."}),
    ],
)
def test_refusals_of_transformers_serve(
    transformers: Client, body: dict[str, Any], status: int, answer: dict[str, Any]
) -> None:
    got, _, data = transformers.post("/v1/completions", body)
    assert (got, json.loads(data)) == (status, answer)


def test_transformers_serve_is_careless_about_lengths(transformers: Client) -> None:
    """A prompt beyond the context is answered; a bad max_tokens is an error in the stream after status 200."""
    *_, finish = transformers.events("/v1/completions", {"prompt": "a " * 3001, "max_tokens": 4})
    assert finish["usage"]["prompt_tokens"] == 3001
    assert transformers.events("/v1/completions", {"prompt": "a", "max_tokens": -4}) == [
        {"error": "`max_new_tokens` must be greater than 0, but is -4."}
    ]
    status, _, body = transformers.post("/v1/completions", b'{"prompt":')
    assert (status, json.loads(body)["detail"][0]["type"]) == (422, "json_invalid")


# connections


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
