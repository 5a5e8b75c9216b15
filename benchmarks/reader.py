"""CPU of the hot path: microseconds per chunk, from bytes off the wire to a token's time stamp, without sockets.

The same stream is read by the parts that a read runs through: HTTP framing (httptools), events (SSEDecoder), JSON and
meaning (AnswerReader). What sockets and wake-ups add shows in a run's own CPU.
"""

from __future__ import annotations

import time

import httptools

from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.sse import SSEDecoder

_CHUNK = (
    b'data: {"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":'
    b'[{"index":0,"text":" path","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,'
    b'"token_ids":null}]}\n\n'
)
_CHUNKS = 100_000


class _Body:
    """What httptools calls."""

    def __init__(self) -> None:
        self.reader = AnswerReader(_CHUNKS)
        self.reader.headers(200)

    def on_body(self, data: bytes) -> None:
        self.reader.feed(data, 1.0)


def main() -> None:
    """Print microseconds per chunk for each part."""
    framed = b"%x\r\n%s\r\n" % (len(_CHUNK), _CHUNK)
    body = _Body()
    parser = httptools.HttpResponseParser(body)
    parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    reader, decoder = AnswerReader(_CHUNKS), SSEDecoder()
    reader.headers(200)
    for name, step in (
        ("events", lambda: decoder.feed(_CHUNK)),
        ("events, JSON and meaning", lambda: reader.feed(_CHUNK, 1.0)),
        ("all of it", lambda: parser.feed_data(framed)),
    ):
        start_s = time.process_time()
        for _ in range(_CHUNKS):
            step()
        print(f"{name:<26}{(time.process_time() - start_s) / _CHUNKS * 1e6:6.2f} us per chunk")
