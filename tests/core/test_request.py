"""A request of the plan becomes a body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.protocol.request import Api, BodyTemplate, body_fields, candidates_asked, choices_asked, streams

PROMPTS = {Api.COMPLETIONS: b"[5,6]", Api.CHAT: b'[{"role":"user","content":"x"}]'}
PROMPT_FIELDS = {Api.COMPLETIONS: "prompt", Api.CHAT: "messages"}


def fields_of(extra: dict[str, object], *, stream: bool = True) -> dict[str, object]:
    return body_fields("m", backend="openai", stream=stream, ignore_eos=True, extra=extra)


def pairs_of(template: BodyTemplate, api: Api, output_tokens: int = 9) -> list[tuple[str, Any]]:
    """A body's fields as they stand in it, the same one twice included."""
    found: list[tuple[str, Any]] = json.loads(
        template.body(PROMPTS[api], output_tokens), object_pairs_hook=lambda pairs: pairs
    )
    return found


def body_of(api: Api, max_tokens_field: str = "max_tokens", **extra: object) -> dict[str, Any]:
    template = BodyTemplate(api, fields_of(extra), max_tokens_field)
    found: dict[str, Any] = json.loads(template.body(PROMPTS[api], 9))
    return found


def test_a_completion_body_is_what_vllm_takes():
    template = BodyTemplate(Api.COMPLETIONS, body_fields("m", backend="vllm", stream=True, ignore_eos=True))
    assert json.loads(template.body(b"[5,6]", 7)) == {
        "model": "m",
        "prompt": [5, 6],
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def test_other_backends_are_not_sent_ignore_eos():
    assert "ignore_eos" not in body_fields("m", backend="openai", stream=True, ignore_eos=True)


def test_a_body_that_is_not_streamed_asks_for_no_stream_options():
    template = BodyTemplate(Api.CHAT, body_fields("m", backend="vllm", stream=False, ignore_eos=False))
    body = json.loads(template.body(PROMPTS[Api.CHAT], 3))
    assert body == {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": False}


@pytest.mark.parametrize("api", Api)
def test_extra_fields_override_and_none_takes_away(api: Api):
    extra = {"temperature": 0, "stream_options": None, "max_tokens": None}
    prompt = json.loads(PROMPTS[api])
    assert body_of(api, **extra) == {"model": "m", PROMPT_FIELDS[api]: prompt, "stream": True, "temperature": 0}
    assert body_of(api, model=None, stream=None, **{PROMPT_FIELDS[api]: None}) == {"max_tokens": 9}


def test_nothing_may_be_left():
    template = BodyTemplate(Api.COMPLETIONS, dict.fromkeys(("model", "stream", "prompt", "max_tokens")))
    assert template.body(b'"p"', 9) == b"{}"


FIELDS = ("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "n", "x")
VALUES = st.none() | st.booleans() | st.integers(-3, 10**6) | st.text(max_size=3) | st.lists(st.integers(0, 9))


@given(
    extra=st.dictionaries(st.sampled_from(FIELDS), VALUES),
    api=st.sampled_from(Api),
    stream=st.booleans(),
    name=st.sampled_from(["max_tokens", "max_completion_tokens"]),
)
def test_a_body_holds_what_is_asked_for_once(extra: dict[str, object], api: Api, stream: bool, name: str):
    """No key twice; every extra field as given, or absent where it is null; stream_options just with stream: true."""
    template = BodyTemplate(api, fields_of(extra, stream=stream), name)
    pairs = pairs_of(template, api)
    body = dict(pairs)
    assert len(body) == len(pairs)
    streamed = body.get("stream") is True
    for field, value in extra.items():
        if value is None:
            assert field not in body
        elif field != "stream_options" or streamed:
            assert body[field] == value
    assert "stream_options" not in body or streamed
    assert streamed == (extra.get("stream", stream) is True)
    asked = template.output_tokens(9)
    assert asked is None or asked in (body.get("max_tokens"), body.get("max_completion_tokens"))


@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize(
    ("name", "extra", "sent", "asked"),
    [
        ("max_tokens", {}, {"max_tokens": 9}, 9),
        ("max_completion_tokens", {}, {"max_completion_tokens": 9}, 9),
        ("max_tokens", {"max_tokens": 5}, {"max_tokens": 5}, 5),
        ("max_tokens", {"max_completion_tokens": 5}, {"max_completion_tokens": 5}, 5),
        ("max_completion_tokens", {"max_tokens": 5}, {"max_tokens": 5}, 5),
        ("max_tokens", {"max_tokens": None, "max_completion_tokens": 5}, {"max_completion_tokens": 5}, 5),
        ("max_tokens", {"max_tokens": None}, {}, None),
        ("max_completion_tokens", {"max_completion_tokens": None}, {}, None),
        ("max_completion_tokens", {"max_tokens": None}, {"max_completion_tokens": 9}, 9),  # there was none to take away
        ("max_tokens", {"max_tokens": "many"}, {"max_tokens": "many"}, None),
    ],
)
def test_the_length_is_the_rows_unless_a_field_says_it(
    api: Api, name: str, extra: dict[str, object], sent: dict[str, object], asked: int | None
):
    body = body_of(api, name, **extra)
    assert {field: value for field, value in body.items() if field.startswith("max_")} == sent
    assert BodyTemplate(api, fields_of(extra), name).output_tokens(9) == asked


def test_of_two_lengths_the_api_decides_which_holds():
    fields = fields_of({"max_tokens": 5, "max_completion_tokens": 7})
    assert BodyTemplate(Api.COMPLETIONS, fields).output_tokens(9) == 5
    assert BodyTemplate(Api.CHAT, fields).output_tokens(9) == 7


def test_a_field_decides_whether_an_answer_is_streamed():
    usage = {"include_usage": True}
    assert fields_of({}, stream=False) == {"model": "m", "stream": False}
    assert fields_of({"stream": False}) == {"model": "m", "stream": False}
    assert fields_of({"stream": True}, stream=False) == {"model": "m", "stream": True, "stream_options": usage}
    assert [streams(fields_of({"stream": value})) for value in (True, False, None)] == [True, False, False]


@pytest.mark.parametrize(
    ("fields", "choices", "candidates"),
    [
        ({}, 1, 1),
        ({"n": 3}, 3, 3),
        ({"n": None}, 1, 1),
        ({"n": 0}, 1, 1),
        ({"n": True}, 1, 1),
        ({"n": "3"}, 1, 1),
        ({"best_of": 4}, 1, 4),  # the best one of four comes back
        ({"n": 2, "best_of": 4}, 2, 4),
        ({"n": 3, "best_of": 1}, 3, 3),
        ({"prompt": "text"}, 1, 1),
        ({"prompt": [1, 2, 3]}, 1, 1),
        ({"prompt": []}, 1, 1),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 3}, 4, 6),
        ({"prompt": [[1, 2], [3]]}, 2, 2),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 1, 1),
    ],
)
def test_as_many_choices_are_asked_for_as_come_back(fields: dict[str, object], choices: int, candidates: int):
    assert (choices_asked(fields), candidates_asked(fields)) == (choices, candidates)
