"""Laws of the event stream decoder."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from captures import exchanges
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.protocol.sse import SSEDecoder, SSEError


def decode_plainly(data: bytes) -> list[bytes]:
    """The standard's rules, line by line over the whole stream: slow, obviously right."""
    lines = re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf"))
    events, current = [], []
    for line in [*lines, b""]:
        field, colon, value = line.partition(b":")
        if not line and current:
            events.append(b"\n".join(current))
            current = []
        elif field == b"data" and (colon or not value):
            current.append(value.removeprefix(b" "))
    return events


def decode(pieces: list[bytes]) -> list[bytes]:
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.end()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
values = st.one_of(st.just(b"[DONE]"), st.text(max_size=12).map(lambda text: re.sub("[\r\n]", "", text).encode()))
lines = st.one_of(
    values.map(lambda value: b"data: " + value),
    values.map(lambda value: b"data:" + value),
    values.map(lambda value: b": " + value),
    st.sampled_from([b"", b"", b"event: message", b"id: 7", b"data", b"retry: 10", b"database: x", b": keep-alive"]),
)
streams = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]), st.lists(st.tuples(lines, line_ends).map(b"".join), max_size=12)
).map(lambda parts: parts[0] + b"".join(parts[1]))
cuts = st.lists(st.integers(0, 2000), max_size=8)


@given(streams, cuts)
def test_every_split_of_the_bytes_gives_the_same_events(data: bytes, places: list[int]):
    assert decode(cut(data, places)) == decode([data]) == decode_plainly(data)


@given(st.lists(values, min_size=1, max_size=8), cuts)
def test_what_servers_send_takes_the_fast_way_to_the_same_answers(payloads: list[bytes], places: list[int]):
    data = b"".join(b"data: %s\n\n" % payload for payload in payloads)
    assert decode(cut(data, places)) == decode([data]) == payloads


@given(st.binary(max_size=300), cuts)
def test_any_bytes_decode_alike_however_they_are_split(data: bytes, places: list[int]):
    assert decode(cut(data, places)) == decode([data]) == decode_plainly(data)


@pytest.mark.parametrize("name", ["vllm.txt", "vllm-options.txt", "transformers-serve.txt"])
def test_captures_decode_alike_byte_by_byte(name: str):
    for exchange in exchanges(name):
        if exchange.body.startswith((b"data", b":")):
            pieces = [exchange.body[i : i + 1] for i in range(len(exchange.body))]
            assert decode(pieces) == decode([exchange.body]) == decode_plainly(exchange.body)


def test_a_line_separator_of_unicode_is_text():
    """U+2028 stands unescaped in JSON; it ends no line of an event stream."""
    payload = '{"text":"one\u2028two\x0bthree"}'.encode()
    assert decode([b"data: " + payload + b"\n\n"]) == [payload]


def test_several_data_lines_are_one_event():
    assert decode([b"data: one\ndata: two\n\n"]) == [b"one\ntwo"]


def test_an_event_without_its_empty_line_comes_out_at_the_end():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: last\n") == []
    assert decoder.end() == [b"last"]


@pytest.mark.parametrize("piece", [b"x" * 64, b"data: y\n" * 8, b"data:\n" * 64, b"data\n" * 64])
def test_an_endless_event_is_refused_in_bounded_memory(piece: bytes):
    decoder = SSEDecoder(max_event_bytes=1000)

    def feed_for_ever() -> None:
        for _ in range(1000):
            decoder.feed(piece)

    with pytest.raises(SSEError, match="more than 1000 bytes"):
        feed_for_ever()
