"""The dialect of `transformers serve`, compared with what was captured from it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from simulator_client import Client
from wireforms import (
    HF_CHAT,
    HF_CHAT_FINISH,
    HF_CHUNK,
    HF_FINISH,
    HF_ROLE,
    HF_WHOLE,
    shape,
    shape_of,
)


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
