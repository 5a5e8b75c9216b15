"""Events in, deltas out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.protocol.openai import (
    error_text,
    http_error_text,
    read_event,
    shorten,
)


def event(**choice: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, **choice}]}).encode()


@pytest.mark.parametrize(
    ("choice", "carries", "visible"),
    [
        ({"text": "a"}, True, True),
        ({"text": "", "finish_reason": None}, True, False),  # a token whose text is held back
        ({"text": "", "finish_reason": "length"}, False, False),
        ({"text": "x", "finish_reason": "length"}, True, True),
        ({"text": "", "finish_reason": "length", "token_ids": [7]}, True, False),
        ({"text": "ab", "token_ids": [7, 8]}, True, True),
        ({"delta": {"role": "assistant"}}, False, False),
        ({"delta": {"role": "assistant", "content": ""}}, False, False),
        ({"delta": {"role": "assistant", "content": "a"}}, True, True),
        ({"delta": {"content": "a"}}, True, True),
        ({"delta": {"content": ""}}, True, False),
        ({"delta": {"reasoning_content": "a"}}, True, False),
        ({"delta": {"reasoning": "a", "content": None}}, True, False),
        ({"delta": {"tool_calls": [{"index": 0}]}}, True, True),
        ({"delta": {}, "finish_reason": "stop"}, False, False),
        ({"delta": {"content": ""}, "finish_reason": "stop"}, False, False),
        ({}, False, False),
    ],
)
def test_what_counts_as_a_token(choice: dict[str, object], carries: bool, visible: bool):
    delta = read_event(event(**choice))
    assert (delta.carries_token, delta.visible, delta.error) == (carries, visible, None)


def test_a_chunk_of_several_tokens_says_how_many():
    assert read_event(event(text="abc", token_ids=[1, 2, 3])).tokens == 3


def test_several_choices_are_told_apart():
    delta = read_event(b'{"choices":[{"index":0,"text":"a"},{"index":1,"text":"b","finish_reason":"stop"}]}')
    assert delta.choices == ((0, None), (1, "stop"))


def test_usage_comes_with_no_choice_at_all():
    delta = read_event(b'{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":8}}')
    assert (delta.usage.input_tokens, delta.usage.output_tokens, delta.carries_token) == (2, 8, False)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "gone", "code": 500}}, "gone"),
        ({"error": "Unauthorized"}, "Unauthorized"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"type": "x", "msg": "JSON decode error"}]}, "JSON decode error"),
        ({"object": "error", "message": "old form", "code": "40301"}, "old form"),
        ({"error": {"code": 7}}, '{"code": 7}'),
        ("plain", "plain"),
    ],
)
def test_every_form_of_error_has_its_text(body: object, text: str):
    assert error_text(body) == text


def test_an_error_event_is_an_error_whatever_its_form():
    assert read_event(b'{"error":{"message":"busy","code":503}}').error == "busy"
    assert read_event(b'{"error":"text"}').error == "text"
    assert read_event(b"<html>").error == "not an OpenAI event: b'<html>'"


def test_an_http_error_names_the_status():
    assert http_error_text(429, b"slow down\n") == "HTTP 429: slow down"
    assert http_error_text(502, b"") == "HTTP 502"


def test_a_deeply_nested_error_is_no_crash():
    body = b'{"error":' + b"[" * 5000 + b"]" * 5000 + b"}"
    assert len(http_error_text(500, body)) < 400
    assert read_event(body).error is not None


def test_hostile_text_becomes_one_bounded_line():
    text = shorten("a\nb\x1b[31m\x00" + "x" * 10**6)
    assert len(text) <= 300
    assert text.isprintable()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["choices", "error", "delta", "text", "usage", "index", "finish_reason", "token_ids", "detail", "message", "content", "completion_tokens"]), inner, max_size=4), max_leaves=12))  # fmt: skip  # noqa: E501
def test_any_json_is_read_without_an_exception(value: object):
    delta = read_event(json.dumps(value).encode())
    assert delta.error is None or len(delta.error) <= 300
