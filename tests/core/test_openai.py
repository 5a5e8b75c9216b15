"""Events in, deltas out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.protocol.endings import ending, is_failure
from fineserve_shapes.protocol.openai import (
    error_text,
    http_error_text,
    is_done,
    merged_events,
    read_event,
)


def event(**choice: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, **choice}]}).encode()


@pytest.mark.parametrize(
    ("choice", "kind", "visible"),
    [
        ({"text": "a"}, "contents", True),
        ({"text": "", "finish_reason": None}, "empties", False),  # half a character, or a sign of life
        ({"text": "", "finish_reason": ""}, "empties", False),
        ({"text": "", "finish_reason": "length"}, "closings", False),
        ({"text": "x", "finish_reason": "length"}, "contents", True),
        ({"text": "", "finish_reason": "length", "token_ids": [7]}, "contents", False),
        ({"text": "ab", "token_ids": [7, 8]}, "contents", True),
        ({"text": "", "token_ids": []}, "bare", False),
        ({"delta": {"role": "assistant"}}, "bare", False),
        ({"delta": {"role": "assistant", "content": ""}}, "bare", False),
        ({"delta": {"role": "assistant", "content": "a"}}, "contents", True),
        ({"delta": {"content": "a"}}, "contents", True),
        ({"delta": {"content": [{"type": "text", "text": "a"}]}}, "contents", True),
        ({"delta": {"content": ""}}, "empties", False),
        ({"delta": {"reasoning_content": "a"}}, "contents", False),
        ({"delta": {"reasoning": "a", "content": None}}, "contents", False),
        ({"delta": {"tool_calls": [{"index": 0}]}}, "contents", True),
        ({"delta": {"refusal": "no"}}, "contents", True),
        ({"delta": {}, "finish_reason": "stop"}, "closings", False),
        ({"delta": {"content": ""}, "finish_reason": "stop"}, "closings", False),
        ({"delta": {}}, "bare", False),
        ({}, "bare", False),
    ],
)
def test_what_a_choice_holds(choice: dict[str, object], kind: str, visible: bool):
    delta = read_event(event(**choice))
    found = {name: getattr(delta, name) for name in ("contents", "empties", "closings", "bare")}
    assert found == dict.fromkeys(found, 0) | {kind: 1}
    assert (delta.visible, delta.error) == (visible, None)


@pytest.mark.parametrize("field", [None, "", " ", "null", "None", False])
def test_a_placeholder_is_no_finish_reason(field: object):
    assert ending(field) is None


@pytest.mark.parametrize("word", ["stop", "length", "tool_calls", "content_filter", "eos_token", "end_turn", "Halt 7"])
def test_any_other_word_is_an_end(word: str):
    assert ending(word) == word
    assert not is_failure(word)


@pytest.mark.parametrize(
    "word", ["abort", "ERROR", "cancelled", "canceled", "timeout", "network_error", "Network Error"]
)
def test_some_words_are_failures(word: str):
    assert is_failure(ending(word))


def test_a_finish_reason_may_be_an_object_with_its_type():
    assert ending({"type": "length", "length": 8}) == "length"
    assert ending({"type": "abort", "message": "x"}) == "abort"


@pytest.mark.parametrize("payload", [b"[DONE]", b" [DONE] ", b'"[DONE]"', b"'[DONE]'", b"[done]\t"])
def test_the_last_event_in_all_its_forms(payload: bytes):
    assert is_done(payload)


@pytest.mark.parametrize("payload", [b"", b"DONE", b'{"text":"[DONE]"}', b'{"choices":[]}'])
def test_other_events_are_not_the_last(payload: bytes):
    assert not is_done(payload)


def test_events_that_a_proxy_merged_come_apart():
    """Without the empty line, or with nothing between them."""
    first, second = event(text="a"), event(text="b")
    assert merged_events(first + b"\n" + second) == [first, second]
    assert merged_events(first + b"data: " + second + b"\ndata: [DONE]") == [first, second, b"[DONE]"]
    assert merged_events(first[:20] + b"\n" + first[20:]) == [first]
    assert merged_events(b"nonsense") is None
    assert merged_events(first[:-4]) is None


@pytest.mark.parametrize("names", [("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")])
def test_usage_has_two_sets_of_names(names: tuple[str, str]):
    delta = read_event(json.dumps({"choices": [], "usage": dict(zip(names, (3, 4), strict=True))}).encode())
    assert (delta.usage.input_tokens, delta.usage.output_tokens) == (3, 4)


@pytest.mark.parametrize("count", [-1, 2**31, 1.5, "7", None, True])
def test_usage_that_is_no_count_is_none(count: object):
    assert read_event(json.dumps({"usage": {"completion_tokens": count}}).encode()).usage.output_tokens is None


def test_a_chunk_of_several_tokens_says_how_many():
    assert read_event(event(text="abc", token_ids=[1, 2, 3])).tokens == 3


def test_several_choices_are_told_apart():
    delta = read_event(b'{"choices":[{"index":0,"text":"a"},{"index":1,"text":"b","finish_reason":"stop"}]}')
    assert delta.choices == ((0, None), (1, "stop"))


def test_usage_comes_with_no_choice_at_all():
    delta = read_event(b'{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":8}}')
    assert (delta.usage.input_tokens, delta.usage.output_tokens, delta.contents) == (2, 8, 0)


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


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["choices", "error", "delta", "text", "usage", "index", "finish_reason", "token_ids", "detail", "message", "content", "completion_tokens"]), inner, max_size=4), max_leaves=12))  # fmt: skip  # noqa: E501
def test_any_json_is_read_without_an_exception(value: object):
    delta = read_event(json.dumps(value).encode())
    assert delta.error is None or len(delta.error) <= 300
