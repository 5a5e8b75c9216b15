"""Captured answers, mutated and cut at random, against the parsers: `python tests/core/fuzzing.py [CASES] [SEED]`.

Each case is one stream: a capture or a part of it with some bytes changed, in pieces of any size. What must hold is in
`check`.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections import Counter
from dataclasses import fields

import httptools
import numpy as np
from captures import WIRE, exchanges
from twins import plain_reader, state

from fineserve_shapes.outcome import OUTCOMES
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.protocol.sse import SSEDecoder, SSEError

MAX_EVENT_BYTES = 2048
MAX_CASE_BYTES = 3000
WORDS = (
    b"\n", b"\r", b"\r\n", b"\n\n", b"data:", b"data: ", b"data: [DONE]\n\n", b": comment\n", b"event: error\n",
    b"\xef\xbb\xbf",
    b"\x00", b"\xff\xfe", b"\xe2\x80\xa8", b"{", b"}", b"[", b"]", b'"', b"null", b"true", b"NaN", b"1e999", b"-1",
    b"99999999999999999999", b'"choices":', b'"usage":', b'"error":', b'"delta":{}', b'"finish_reason":"stop"', b"\\ud800",
    b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-5\r\n", b"5;x=y\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Retry-After: 1\r\n", b"HTTP/1.1 101 Switching\r\n\r\n",
)  # fmt: skip


def sources() -> list[tuple[int, bytes]]:
    """Statuses and bodies of all captures."""
    return [
        (found.status, found.body)
        for path in sorted(WIRE.iterdir())
        if path.is_file()
        for found in exchanges(path.name)
    ]


def mutated(rng: random.Random, bodies: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """A part of a capture with some changes."""
    status, body = rng.choice(bodies)
    if len(body) > MAX_CASE_BYTES:
        start = rng.choice((0, rng.randrange(len(body) - MAX_CASE_BYTES)))
        body = body[start : start + rng.randrange(1, MAX_CASE_BYTES)]
    data = bytearray(body)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at : at + rng.choice((1, 2, 10, 200))]
        elif kind == 2:
            data[at:at] = rng.choice(WORDS)
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice((1, 5, 80, 400))]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.choice((1, 3, 30)))
        elif kind == 5:
            data[at:at] = rng.choice(WORDS) * rng.choice((2, 10, 200))
        else:
            _, other = rng.choice(bodies)
            data[at:] = other[: rng.randrange(MAX_CASE_BYTES)]
    return status if rng.random() < 0.9 else rng.choice((0, 200, 429, 500)), bytes(data[: 2 * MAX_CASE_BYTES])


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut anywhere."""
    count = rng.choice((0, 0, 1, 2, 5, 40))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Body:
    """What httptools calls for the body of an answer."""

    def __init__(self, reader: AnswerReader) -> None:
        self.reader = reader

    def on_body(self, data: bytes) -> None:
        self.reader.feed(data, 1.0)


def framed(rng: random.Random, status: int, body: bytes) -> bytes:
    """The body as an answer on the wire, and then a few bytes changed."""
    head = b"HTTP/1.1 %d X\r\n" % status
    if rng.random() < 0.7:
        size = rng.randrange(1, 500)
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        data = (
            head
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        )
        data += b"0\r\n\r\n"
    else:
        data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    found = bytearray(data)
    for _ in range(rng.choice((0, 1, 2))):
        at = rng.randrange(len(found) + 1)
        found[at : at + rng.randrange(3)] = rng.choice(WORDS)
    return bytes(found)


def without_times(result: Result) -> list[object]:
    """All that a result holds but its array, which has no one truth."""
    return [getattr(result, field.name) for field in fields(result) if field.name != "chunk_times_s"]


def check(rng: random.Random, bodies: list[tuple[int, bytes]]) -> str:
    """One case; how it ended. Raises for anything that must not be."""
    status, data = mutated(rng, bodies)
    cut = pieces(rng, data)
    assert events([data]) == events(cut), (data, cut)
    asked, whole = rng.choice((1, 16, 1000)), rng.random() < 0.5
    if rng.random() < 0.5:  # as servers write: an event a read
        cut = [part + b"\n\n" for part in data.split(b"\n\n")]
    reader, twin = AnswerReader(asked), plain_reader(asked)
    reader.headers(status)
    twin.headers(status)
    for at_s, piece in enumerate(cut):
        assert reader.feed(piece, float(at_s)) == twin.feed(piece, float(at_s)), (data, cut)
        assert state(reader) == state(twin), (data, cut)
    result, expected = (each.finish(0.0, 1e9, whole=whole) for each in (reader, twin))
    assert np.array_equal(result.chunk_times_s, expected.chunk_times_s), (data, cut)
    assert without_times(result) == without_times(expected), (data, cut)
    assert result.outcome in OUTCOMES
    assert (result.outcome == "ok") == (result.error is None)
    assert result.error is None or len(result.error) <= 320
    assert result.output_tokens is None or result.output_tokens >= 0
    body = Body(AnswerReader(16))
    body.reader.headers(status)
    parser = httptools.HttpResponseParser(body)
    try:
        for piece in pieces(rng, framed(rng, status, data)):
            parser.feed_data(piece)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        body.reader.stop("stream_error", "garbage", 0.0, 2.0)
        return "no HTTP"
    return body.reader.finish(0.0, 2.0, whole=True).outcome


def events(cut: list[bytes]) -> list[bytes] | str:
    """All events of a stream; what is kept in between never exceeds the limit."""
    decoder = SSEDecoder(MAX_EVENT_BYTES)
    found: list[bytes] = []
    try:
        for piece in cut:
            found += decoder.feed(piece)
            assert len(decoder._line) + decoder._data_bytes <= MAX_EVENT_BYTES
        return found + decoder.end()
    except SSEError:
        return "too large"


def main() -> None:
    """Run and print."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 10**6
    bodies = sources()
    ends: Counter[str] = Counter()
    started_s, before_kb = time.monotonic(), 0
    for case in range(cases):
        try:
            ends[check(random.Random(f"{seed}/{case}"), bodies)] += 1
        except BaseException:
            print(f"case {case} of seed {seed}")
            raise
        if case == min(10_000, cases // 10):
            before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    print(f"{cases:,} cases of seed {seed} in {time.monotonic() - started_s:.0f} s; memory grew by {grown_mb:.1f} MB")
    print(", ".join(f"{count:,} {end}" for end, count in ends.most_common()))


if __name__ == "__main__":
    main()
