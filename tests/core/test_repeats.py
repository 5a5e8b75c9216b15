"""Repeats are a short way to the same answer: with them and without them the reader says the same, at every step."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from captures import WIRE, exchanges
from hypothesis import example, given, settings
from hypothesis import strategies as st
from thorough import examples
from twins import plain_reader, state

from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.openai import read_event
from fineserve_shapes.protocol.repeats import Repeats, learn

DONE = b"data: [DONE]\n\n"


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted(min(at, len(data)) for at in cuts)
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def assert_same(pieces: list[bytes], asked: int | None = 16, choices: int = 1, whole: bool = True) -> None:
    """The reader and its twin say the same after every piece, and in the end."""
    short, plain = AnswerReader(asked, choices), plain_reader(asked, choices)
    for reader in (short, plain):
        reader.headers(200)
    for at_s, piece in enumerate(pieces, 1):
        assert short.feed(piece, float(at_s)) == plain.feed(piece, float(at_s))
        assert state(short) == state(plain)
    results = [reader.finish(0.5, len(pieces) + 1.0, whole=whole) for reader in (short, plain)]
    for field in fields(results[0]):
        one, other = (getattr(result, field.name) for result in results)
        assert np.array_equal(one, other) if field.name == "chunk_times_s" else one == other, field.name


# streams of the forms that servers send, with hostile parts

texts = st.one_of(
    st.sampled_from(
        ["", " path", 'a"b', "\\", '\\"', "\n", "\r\n", "\t", "\u2028", "é", "🦀", "\x7f", "\x00", '","x":"y']
    ),
    st.text(max_size=6),
    st.sampled_from(['"},"finish_reason":"stop"}', '","usage":{"completion_tokens":9}', "data: [DONE]", "?"]),
)
raw_texts = st.sampled_from(
    [b"\xff", b"\xe2\x80", b"a\tb", b"a\x00", b'"', b"\\", b"\\ud800", b"\\u00e9", b'\\"', b"\\x", b"a\rb", b"a\nb",
     b"\\\\", b'","text":"b', b'"},"logprobs":null,"delta":{"content":"b', b'a","finish_reason":"stop","b":"c', b""]
)  # fmt: skip
usages = st.sampled_from(
    [None, {"prompt_tokens": 5}, {"completion_tokens": 2.5}, {"completion_tokens": -1}, "no", [], {}, 7,
     {"prompt_tokens": 5, "completion_tokens": 3, "completion_tokens_details": {"a": {"b": "\u2028"}}},
     {"input_tokens": 5, "output_tokens": 3}]
)  # fmt: skip
MARK = "\ue000"


@st.composite
def events(draw: st.DrawFn) -> list[dict[str, Any]]:
    """One stream: events of one form, in which some things change on the way."""
    form = draw(st.sampled_from(["completion", "chat", "sglang", "tgi", "llama"]))
    counter = draw(st.sampled_from(["none", "created", "usage", "usage and id", "odd usage"]))
    found = []
    for number in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(["content"] * 5 + ["reasoning_content"]))
        choice: dict[str, Any] = {"index": draw(st.sampled_from([0, 0, 0, 0, 1, -1]))}
        if form == "completion":
            choice["text"] = MARK
        else:
            choice["delta"] = {name: MARK}
        if form == "sglang":
            choice["delta"] = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None, name: MARK}
        if form == "tgi":
            choice["delta"] = {"role": "assistant", name: MARK}
        if form == "llama":
            choice = {"finish_reason": None, **choice}
        odd = draw(st.integers(0, 40))
        more: dict[str, Any] = {
            0: {"finish_reason": "length"}, 1: {"finish_reason": "error"}, 2: {"finish_reason": "none"},
            3: {"token_ids": [5, 6]}, 4: {"logprobs": {"tokens": [draw(texts)]}}, 5: {"delta": {"role": "assistant"}},
            6: {"delta": {"tool_calls": [{"id": draw(texts)}]}}, 7: {"text": "a"}, 8: {"message": {"content": "b"}},
        }.get(odd, {"logprobs": None})  # fmt: skip
        event: dict[str, Any] = {"id": "cmpl-1", "created": 17, "choices": [{**choice, **more}]}
        if odd == 9:
            event["choices"] *= 2
        elif odd == 10:
            event = {"error": {"message": draw(texts)}}
        elif odd == 11:
            event["choices"] = []
        elif odd == 12:
            event["metrics"] = {"a": number}
        if counter == "created":
            event["created"] = 17 + number // 3
        if counter == "usage and id":
            event["id"] = f"cmpl-{number}"
        if "usage" in counter:
            said = {"prompt_tokens": 5, "total_tokens": 6 + number, "completion_tokens": number + 1}
            event["usage"] = draw(usages) if counter == "odd usage" else said
        found.append(event)
    return found


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    blanks, ascii_only = draw(st.booleans()), draw(st.booleans())
    newline = draw(st.sampled_from([b"\n"] * 8 + [b"\r\n", b"\r"]))
    body = b""
    for event in draw(events()):
        separators = (", ", ": ") if blanks else (",", ":")
        payload = json.dumps(event, ensure_ascii=ascii_only, separators=separators)
        text = draw(texts)
        escaped = json.dumps(text, ensure_ascii=draw(st.booleans()))[1:-1].encode("utf-8", "surrogatepass")
        if draw(st.integers(0, 15)) == 0:
            escaped = draw(raw_texts)
        mark = json.dumps(MARK, ensure_ascii=ascii_only)[1:-1].encode()
        line = payload.encode("utf-8", "surrogatepass").replace(mark, escaped)
        field = draw(st.sampled_from([b"data: "] * 12 + [b"data:", b": note\ndata: ", b"event: x\ndata: "]))
        body += field + line + draw(st.sampled_from([newline * 2] * 15 + [newline]))
    return body + draw(st.sampled_from([b"", DONE, DONE + body[:200]]))


@settings(max_examples=examples(400))
@given(
    streams(),
    st.lists(st.integers(0, 4000), max_size=8),
    st.booleans(),
    st.sampled_from([None, 1, 16]),
    st.integers(1, 2),
    st.booleans(),
)
def test_an_answer_is_the_same_with_repeats_and_without(
    data: bytes, cuts: list[int], by_event: bool, asked: int | None, choices: int, whole: bool
):
    pieces = cut(data, cuts)
    if by_event:  # as servers write, one event a read
        pieces = [part + b"\n\n" for part in data.split(b"\n\n")]
    assert_same(pieces, asked, choices, whole)


@pytest.mark.parametrize(
    "body", [found.body for name in sorted(WIRE.glob("*.txt")) for found in exchanges(name.name) if found.status == 200]
)
def test_captured_answers_are_the_same_with_repeats_and_without(body: bytes):
    assert_same([part + b"\n\n" for part in body.split(b"\n\n")], None)
    assert_same([body], None)
    assert_same(cut(body, list(range(0, len(body), 7))), None)


# what may come between two repeats


def chunk(text: str = "a", index: int = 0, said: int | None = None) -> bytes:
    usage = b"" if said is None else b',"usage":{"prompt_tokens":2,"completion_tokens":%d}' % said
    return b'data: {"choices":[{"index":%d,"text":"%s","finish_reason":null}]%s}\n\n' % (index, text.encode(), usage)


USAGE_ALONE = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}\n\n'


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "between",
    [
        b"d", b"data: ", b"data: {", b"data: x\n", b"data\n", b": note", b": note\n", b": note\n\n", b": note\nda",
        b"\ndata: x", b"event: x\n", b"\r", b"\n", b"data: x\r", b"data: x\r\n", chunk() + b"data: 1\r",
        chunk()[:-1], chunk()[:-2], chunk()[:20], chunk().replace(b"\n", b"\r"), chunk() * 3,
        DONE, DONE[:-1], USAGE_ALONE, b'data: {"choices"\n\n', b"data: x\n\n", b'data: {"error":"e"}\n\n',
        chunk("b", 1), chunk(said=4), chunk(said=4).replace(b":4", b":\n4"), chunk(said=4).replace(b":4", b":\r4"),
        chunk(said=4).replace(b":4", b":\t4"), chunk(said=4).replace(b"null", b'"stop"'),
        chunk("a" * 70_000), chunk("\\n" * 40_000),
    ],
)  # fmt: skip
def test_nothing_between_two_repeats_makes_a_difference(between: bytes, whole: bool):
    for said in ([None] * 6, [1, 2, 3, 5, 6, 7]):
        chunks = [chunk(said=tokens) for tokens in said]
        assert_same([*chunks[:3], between, *chunks[3:], DONE], whole=whole)
        assert_same([*chunks[:3], between, *chunks[3:]], whole=whole)
        assert_same([*chunks[:3], between + b"".join(chunks[3:])], whole=whole)


@pytest.mark.parametrize("order", [[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]])
def test_usage_that_runs_within_each_choice_is_the_same_with_repeats(order: list[int]):
    said = [2 * order[: at + 1].count(index) for at, index in enumerate(order)]
    assert_same([chunk(index=index, said=tokens) for index, tokens in zip(order, said, strict=True)], choices=2)


# what is recognised: the usual chunks of the servers in the field, or the short way would be one that nobody takes

VLLM = '"object":"chat.completion.chunk","created":17,"choices":[{"index":0,%s,"logprobs":null,"finish_reason":null}]'
USUAL = {
    "vLLM completions": '{"id":"c-1","choices":[{"index":0,"text":"%s","finish_reason":null,"token_ids":null}]}',
    "vLLM chat": '{"id":"c-1",' + VLLM % '"delta":{"content":"%s"}' + "}",
    "vLLM reasoning": '{"id":"c-1",' + VLLM % '"delta":{"reasoning":"%s"}' + "}",
    "SGLang chat": '{"id":"c-1",'
    + VLLM % '"delta":{"role":null,"content":"%s","reasoning_content":null,"tool_calls":null}'
    + ',"usage":null}',
    "SGLang reasoning": '{"id":"c-1",' + VLLM % '"delta":{"content":null,"reasoning_content":"%s"}' + "}",
    "llama-server": '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"%s"}}],"created":17,"id":"c-1"}',
    "TGI": '{"object":"chat.completion.chunk","id":"","choices":[{"index":0,"delta":{"role":"assistant","content":"%s"},'
    '"logprobs":null,"finish_reason":null}],"usage":null}',
    "with blanks": '{"id": "c-1", "choices": [{"index": 0, "text": "%s", "finish_reason": null}]}',
}
USAGE = ',"usage":{"prompt_tokens":2,"total_tokens":%d,"completion_tokens":%d},"system_fingerprint":"f"}'


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("text", [" path", "é\u2028", "line\\n", '\\"', "\\u00e9", "🦀"])
def test_the_usual_chunks_are_recognised(name: str, text: str):
    first, later = (USUAL[name].replace("%s", said).encode() for said in ("a", text))
    told = learn(first, read_event(first))
    assert told is not None
    assert told.is_told(later)
    assert told.within(b"data: ", b"\n\n").is_told(b"data: %s\n\n" % later)


def test_usage_that_runs_along_is_read_from_the_repeats():
    """Its digits may grow in number."""
    first, later = (
        (USUAL["vLLM chat"].replace("%s", "a")[:-1] + USAGE % (total, total - 2)).encode() for total in (3, 1002)
    )
    told = learn(first, read_event(first))
    assert told is not None
    assert told.is_told(later)
    assert told.usage is not None
    assert (told.usage.input_tokens, told.usage.output_tokens) == (2, 1000)


@example(b"", b"")
@given(st.binary(max_size=20), st.sampled_from([b"", b"\\", b'"', b"\n"]))
@pytest.mark.parametrize("name", USUAL)
def test_what_is_told_a_repeat_means_the_same_as_the_event_learnt_from(name: str, text: bytes, end: bytes):
    head, tail = USUAL[name].encode().split(b"%s")
    delta = read_event(head + b"a" + tail)
    told = learn(head + b"a" + tail, delta)
    later = head + text + end + tail
    assert told is not None
    if told.is_told(later):
        assert read_event(later) == delta


@pytest.mark.parametrize(
    "payload",
    [
        b'{"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}',
        b'{"choices":[{"index":0,"text":"a","token_ids":[5]}]}',
        b'{"choices":[{"index":0,"text":"a"}],"metrics":{}}',
        b'{"choices":[{"index":0,"text":"a"},{"index":1,"text":"a"}]}',
        b'{"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"arguments":"a"}}]}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"a"},"text":"b"}],"text":"c"}'.replace(
            b'"content":"a"', b'"refusal":"a"'
        ),
        b'{"text":"x","choices":[{"index":0,"text":"a"}]}',
        b'{"choices":[{"index":0,"text":"x","text":"a"}]}',
        b'[{"choices":[{"index":0,"text":"a"}]}]',
        b'{"choices":[{"index":0,\n"text":"a"}]}',
        b'{"usage":{"completion_tokens":1},"choices":[{"index":0,"text":"a"}]}',
        b'{"choices":[{"index":0,"text":"a"}],"usage":{"completion_tokens":1},"usage":{"completion_tokens":2}}',
    ],
)
def test_nothing_is_learnt_from_what_may_mean_more_than_its_text(payload: bytes):
    assert learn(payload, read_event(payload)) is None


def test_a_server_that_never_repeats_itself_is_not_looked_at_for_ever():
    repeats = Repeats()
    for tokens in range(1, 10):
        payload = b'{"id":%d,"choices":[{"index":0,"text":"a"}]}' % tokens
        repeats.learn(payload, read_event(payload), tokens)
    assert repeats.bare is repeats.framed is None
