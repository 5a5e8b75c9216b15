"""CPU of the hot path: microseconds per chunk, from bytes off the wire to a token's time stamp, without sockets.

Chunks as vLLM sends them, one a read, are read by the parts that a read runs through: events (SSEDecoder), their
meaning with and without the recognition of repeats (AnswerReader), HTTP framing (httptools) around it all. Chunks with
logprobs are never repeats. What sockets and wake-ups add shows in a run's own CPU. Medians of several runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import httptools

from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.repeats import Repeats
from fineserve_shapes.protocol.sse import SSEDecoder

_CHUNKS = 20_000
_RUNS = 7
_COMPLETION = (
    b'data: {"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":'
    b'[{"index":0,"text":" %s","logprobs":%s,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,'
    b'"token_ids":null}]%s}\n\n'
)
_CHAT = (
    b'data: {"id":"chatcmpl-98fb6cd2bd0705ab","object":"chat.completion.chunk","created":1795328387,"model":"tiny",'
    b'"choices":[{"index":0,"delta":{"content":" %s"},"logprobs":null,"finish_reason":null,"token_ids":null}]%s}\n\n'
)
_USAGE = b',"usage":{"prompt_tokens":2,"total_tokens":%d,"completion_tokens":%d}'
_LOGPROBS = b'{"text_offset":[%d],"token_logprobs":[-1.25],"tokens":[" path"],"top_logprobs":[null]}'

CHUNKS: dict[str, Callable[[int], bytes]] = {
    "completions": lambda n: _COMPLETION % (b"word%d" % (n % 100), b"null", b""),
    "chat": lambda n: _CHAT % (b"word%d" % (n % 100), b""),
    "chat, escaped text": lambda n: _CHAT % (b"line\\n%d" % (n % 100), b""),
    "chat, usage on each chunk": lambda n: _CHAT % (b"path", _USAGE % (n + 3, n + 1)),
    "completions with logprobs": lambda n: _COMPLETION % (b"path", _LOGPROBS % n, b""),
}


class PlainRepeats(Repeats):
    """None is ever known: every event is understood anew."""

    def learn(self, *event: object) -> None:
        """Learn nothing."""


def plain_reader() -> AnswerReader:
    """The reader without the recognition of repeats."""
    reader = AnswerReader(None)
    reader._repeats = PlainRepeats()
    return reader


class _Body:
    """What httptools calls."""

    def __init__(self) -> None:
        self.reader = AnswerReader(None)
        self.reader.headers(200)

    def on_body(self, data: bytes) -> None:
        self.reader.feed(data, 1.0)


def us_per_chunk(step: Callable[[bytes], object], chunks: Sequence[bytes]) -> float:
    """CPU time of one step."""
    start_s = time.process_time()
    for chunk in chunks:
        step(chunk)
    return (time.process_time() - start_s) / len(chunks) * 1e6


def _reading(reader: AnswerReader) -> Callable[[bytes], object]:
    reader.headers(200)
    return lambda chunk: reader.feed(chunk, 1.0)


def _framed() -> Callable[[bytes], object]:
    parser = httptools.HttpResponseParser(_Body())
    parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    return parser.feed_data


def main() -> None:
    """Print microseconds per chunk for each part and each kind of chunk."""
    print(f"{'us per chunk':<28}{'events':>8}{'plain':>8}{'repeats':>9}{'with HTTP':>11}")
    for name, chunk in CHUNKS.items():
        chunks = [chunk(number) for number in range(_CHUNKS)]
        framed = [b"%x\r\n%s\r\n" % (len(data), data) for data in chunks]
        runs = [
            (
                us_per_chunk(SSEDecoder().feed, chunks),
                us_per_chunk(_reading(plain_reader()), chunks),
                us_per_chunk(_reading(AnswerReader(None)), chunks),
                us_per_chunk(_framed(), framed),
            )
            for _ in range(_RUNS)
        ]
        events, plain, repeats, http = map(statistics.median, zip(*runs, strict=True))
        print(f"{name:<28}{events:>8.2f}{plain:>8.2f}{repeats:>9.2f}{http:>11.2f}")
