"""An answer in progress: turns the engine's tokens into writes on its connection, and keeps the times.

`Answer` is what all have in common; `StreamAnswer` writes each token as it comes (one write, whatever it contains),
`WholeAnswer` one body at the end. Faults bend `StreamAnswer` in `faults.py`.
"""

import asyncio
import itertools
import random
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import orjson

from fineserve_shapes.simulator.metrics import Metrics
from fineserve_shapes.simulator.model import Sequence
from fineserve_shapes.simulator.rendering import Renderer
from fineserve_shapes.simulator.requests import Generation
from fineserve_shapes.simulator.vocabulary import TOKEN_IDS, TOKEN_JSON, TOKEN_TEXTS

VOCABULARY = len(TOKEN_JSON)
PHRASE = 16
"""Words of an answer before they repeat."""
LAST_CHUNK = b"0\r\n\r\n"


class Wire(Protocol):
    """The connection, as an answer sees it."""

    fd: int  # where chunks may be written to directly; -1 if they may not

    def write(self, data: bytes) -> None: ...
    def write_rest(self, data: bytes) -> None:
        """Send what could not be written to `fd`."""
        ...

    def head(self, status: int, headers: Mapping[str, str], *, http_1_0: bool = False) -> bytes: ...
    def respond(self, status: int, body: bytes, content_type: str = ..., headers: Mapping[str, str] = ...) -> None: ...
    def done(self) -> None:
        """The answer is complete: the connection may serve another request."""
        ...

    def close(self) -> None:
        """Close after what was written."""
        ...

    def reset(self) -> None:
        """Close with a TCP reset."""
        ...


class Service(Protocol):
    """The server, as an answer sees it."""

    loop: asyncio.AbstractEventLoop
    metrics: Metrics
    per_request_metrics: bool
    stream_interval: int

    def resume(self, answer: "Answer") -> None:
        """Let the engine generate as many tokens again."""
        ...

    def release(self, answer: "Answer") -> None:
        """Stop generating for this answer."""
        ...

    def ended(self, answer: "Answer") -> None:
        """Count and log it; called once."""
        ...


class Answer:
    """Base of all answers."""

    fault: str | None = None

    def __init__(
        self, service: Service, wire: Wire, renderer: Renderer, request: Generation, request_id: str, received_s: float
    ) -> None:
        self.service = service
        self.wire = wire
        self.renderer = renderer
        self.request = request
        self.request_id = request_id
        self.received_s = received_s
        self.sequence = Sequence(request.prefill_tokens, request.max_tokens)
        self.total = request.max_tokens  # tokens after which it ends
        self.reason = "length"
        self.status = 200
        self.aborted = False
        self.finish_reason: str | None = None  # once the client has been told
        self.first_s: float | None = None
        self.token_s = array("d")  # when the server had each token, for its metrics
        self.counted = 0  # of these times, those that are in the metrics already
        self.chunk_due_s = array("d")
        self.chunk_written_s = array("d")  # the very array of token times where every token is a chunk
        # an answer's words depend on its id alone
        self._first_word = zlib.crc32(request_id.encode())
        # chunks that may be written as they are, one a token: `burst` takes them from here before it asks `token`
        self.ready: Iterator[bytes] = iter(())
        self.open = True  # until `end`

    @property
    def tokens(self) -> int:
        """Tokens it has had so far."""
        return len(self.token_s)

    def word(self, token: int) -> int:
        """The word that is token number `token`, from 1. Words repeat, so that chunks can be rendered beforehand."""
        return (self._first_word + token % PHRASE) % VOCABULARY

    def ends_after(self, tokens: int, reason: str) -> None:
        """Set the length, before the sequence is submitted."""
        self.total = self.sequence.output_tokens = tokens
        self.reason = reason

    def draw(self, rng: random.Random) -> None:
        """Settle what is random about this answer, before it begins."""

    def begin(self) -> None:
        """The request is accepted."""

    def token(self, due_s: float) -> None:
        """The engine has one more token."""
        raise NotImplementedError

    def abort(self) -> None:
        """The client has gone."""
        if self.open:
            self.aborted = True
            self.end()

    def end(self) -> None:
        """Nothing more will be written."""
        if self.open:
            self.open = False
            self.count()
            self.service.release(self)
            self.service.ended(self)

    def note(self, now_s: float) -> None:
        """Keep the time of a token for the server's metrics."""
        if self.first_s is None:
            self.first_s = now_s
            metrics = self.service.metrics
            metrics.ttft.observe(now_s - self.received_s)
            metrics.prompt_tokens += self.request.prompt_tokens
        self.token_s.append(now_s)

    def log(self, due_s: float, written_s: float) -> None:
        """Keep the times of a chunk for the ground-truth log."""
        self.chunk_due_s.append(due_s)
        if self.chunk_written_s is not self.token_s:
            self.chunk_written_s.append(written_s)

    def count(self) -> None:
        """Bring the server's metrics up to date: gaps are not counted one by one, for tokens are many."""
        if len(self.token_s) > self.counted + 1:
            self.service.metrics.itl.observe_gaps(self.token_s[self.counted :])
            self.counted = len(self.token_s) - 1

    def timings(self) -> dict[str, float] | None:
        """vLLM's per-request metrics of a complete answer, or None if they are off.

        Times to the first token count from admission.
        """
        if not self.service.per_request_metrics:
            return None
        now_s = time.perf_counter()
        first_s = now_s if self.first_s is None else self.first_s
        admitted_s = self.received_s if self.sequence.admitted_s is None else self.sequence.admitted_s
        generation_s = now_s - first_s
        return {
            "time_to_first_token_ms": 1e3 * (first_s - admitted_s),
            "generation_time_ms": 1e3 * generation_s,
            "queue_time_ms": 1e3 * max(0.0, admitted_s - self.received_s),
            "mean_itl_ms": 1e3 * generation_s / max(1, self.total - 1),
            "tokens_per_second": self.total / max(1e-9, now_s - admitted_s),
        }

    def truth(self) -> dict[str, Any]:
        """The line of the ground-truth log."""
        return {
            "request_id": self.request_id,
            "received_s": self.received_s,
            "prompt_tokens": self.request.prompt_tokens,
            "max_tokens": self.request.max_tokens,
            "output_tokens": self.tokens,
            "chunk_due_s": self.chunk_due_s.tolist(),
            "chunk_written_s": self.chunk_written_s.tolist(),
            "status": self.status,
            "finish_reason": self.finish_reason,
            "aborted": self.aborted,
            "fault": self.fault,
        }


class WholeAnswer(Answer):
    """An answer that is not streamed: one body, when the last token is there."""

    def token(self, due_s: float) -> None:
        now_s = time.perf_counter()
        if self.tokens + 1 < self.total:
            self.note(now_s)
            return
        text = "".join(TOKEN_TEXTS[self.word(token)] for token in range(1, self.total + 1))
        body = orjson.dumps(self.renderer.whole(text, self.total, self.reason, self.timings()))
        self.note(now_s)
        self.log(due_s, time.perf_counter())
        self.finish_reason = self.reason
        self.wire.respond(200, body, headers={"x-request-id": self.request_id})
        self.end()
        self.wire.done()


class StreamAnswer(Answer):
    """An answer as server-sent events."""

    last_chunk = LAST_CHUNK
    closes = False
    tokens_per_chunk: int | None = None  # the server's, if None
    plain = True  # every token is a chunk and nothing bends it on its way; subclasses are looked at
    headers: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}

    def __init__(
        self, service: Service, wire: Wire, renderer: Renderer, request: Generation, request_id: str, received_s: float
    ) -> None:
        super().__init__(service, wire, renderer, request, request_id, received_s)
        self.interval = self.tokens_per_chunk or service.stream_interval
        if self.plain and self.interval == 1:
            self.chunk_written_s = self.token_s
        self._held: list[int] = []  # words that wait for the next chunk

    def __init_subclass__(cls) -> None:
        bends = ("token", "text", "frame", "write", "deliver")
        cls.plain = all(getattr(cls, name) is getattr(StreamAnswer, name) for name in bends)

    def begin(self) -> None:
        self.wire.write(self.head() + b"".join(map(self.frame, self.renderer.opening())))

    def head(self) -> bytes:
        return self.wire.head(200, {**self.headers, "x-request-id": self.request_id})

    def frame(self, event: bytes) -> bytes:
        """An event as an HTTP chunk."""
        return b"%x\r\n%b\r\n" % (len(event), event)

    def text(self, word: int) -> bytes:
        return TOKEN_JSON[word]

    def token(self, due_s: float) -> None:
        tokens = self.tokens + 1
        word = self.word(tokens)
        last = tokens == self.total
        if self.interval > 1:
            self._held.append(word)
            if not last and (tokens - 1) % self.interval:
                self.note(time.perf_counter())
                return
            words, self._held = self._held, []
            text = b"".join(map(self.text, words))
        else:
            words = [word]
            text = self.text(word)
        if not last:
            data = self.frame(self.renderer.chunk(text, tokens, [TOKEN_IDS[word] for word in words]))
            if tokens == 1:
                data = b"".join(map(self.frame, self.renderer.first())) + data
                self.ready = self._prepare()
        else:
            events = self.renderer.first() if tokens == 1 else []
            ids = [TOKEN_IDS[word] for word in words]
            events += self.renderer.last(text, tokens, ids, self.reason, self.timings())
            data = b"".join(map(self.frame, events)) + self.last_chunk
        self.deliver(due_s, data, last)

    def _prepare(self) -> Iterator[bytes]:
        """All chunks but the first and the last, if each is a token and they differ in their words alone."""
        count = self.total - 2
        if self.chunk_written_s is not self.token_s or self.renderer.varies:
            return iter(())
        texts = [TOKEN_JSON[self.word(token)] for token in range(2, 2 + min(count, PHRASE))]
        chunks = [self.frame(self.renderer.chunk(text, 0, [])) for text in texts]
        return itertools.islice(itertools.cycle(chunks), count)

    def deliver(self, due_s: float, data: bytes, last: bool) -> None:
        """Write a chunk with all that goes with it; after the last one the answer has ended."""
        now_s = time.perf_counter()
        self.write(data)
        self.note(now_s)
        self.log(due_s, now_s)
        if last:
            self.finish_reason = self.reason
            self.end()
            if self.closes:
                self.wire.close()
            else:
                self.wire.done()

    def write(self, data: bytes) -> None:
        self.wire.write(data)
