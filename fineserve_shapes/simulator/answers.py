"""An answer in progress: turns the engine's tokens into writes on its connection, and keeps the times.

`Answer` is what all have in common; `StreamAnswer` writes each token as it comes (one write, whatever it contains),
`WholeAnswer` one body at the end. Faults bend `StreamAnswer` in `faults.py`.
"""

import asyncio
import random
import time
import zlib
from array import array
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Protocol

import orjson

from fineserve_shapes.simulator.engine import Sequence
from fineserve_shapes.simulator.kvcache import Content
from fineserve_shapes.simulator.phrase import chunks, framed, repeated, word
from fineserve_shapes.simulator.rendering import Extras, Renderer
from fineserve_shapes.simulator.requests import Generation
from fineserve_shapes.simulator.vocabulary import Vocabulary

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

    def hang(self) -> None:
        """Once the answer is complete, neither close nor serve another request."""
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
    vocabulary: Vocabulary
    per_request_metrics: bool
    prompt_tokens_details: bool
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

    __slots__ = (
        "_first_word",
        "_gaps_counted",
        "_tokens_counted",
        "aborted",
        "carousel",
        "chunk_due_s",
        "chunk_written_s",
        "finish_reason",
        "first_s",
        "metrics",
        "more_tokens",
        "open",
        "phrase",
        "ready",
        "reason",
        "received_s",
        "renderer",
        "request",
        "request_id",
        "sequence",
        "service",
        "status",
        "token_s",
        "total",
        "wire",
        "words",
    )
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
        self.metrics = request.model.metrics
        self.words = service.vocabulary
        self.sequence = Sequence(request.prefill_tokens, request.max_tokens, Content(request.prompt, self._content))
        self.total = request.max_tokens  # tokens after which it ends
        self.reason = "length"
        self.status = 200
        self.aborted = False
        self.finish_reason: str | None = None  # once the client has been told
        self.first_s: float | None = None
        self.token_s = array("d")  # when the server had each token, or several at once, for its metrics
        self.more_tokens = 0  # beyond one each time
        self._gaps_counted = 0  # those between these times that are in the metrics already
        self._tokens_counted = 0
        self.chunk_due_s: list[float] = []
        self.chunk_written_s = array("d")  # the very array of token times where every token is a chunk
        # an answer's words depend on its id alone
        self._first_word = zlib.crc32(request_id.encode())
        # chunks that may be written as they are, one a token: `burst` takes them from here before it asks `token`
        self.ready: Iterator[bytes] = iter(())
        self.phrase: tuple[bytes, ...] = ()  # what these repeat, if they are all of its chunks but the last one
        self.carousel: Any = None  # who writes them, if it is not the engine that gives each token
        self.open = True  # until `end`

    @property
    def tokens(self) -> int:
        """Tokens it has had so far."""
        return len(self.token_s) + self.more_tokens

    def word(self, token: int) -> int:
        """The word that is token number `token`, from 1."""
        return word(self.words, self._first_word, token)

    def ends_after(self, tokens: int, reason: str) -> None:
        """Set the length, before the sequence is submitted."""
        self.total = self.sequence.output_tokens = tokens
        self.reason = reason

    def draw(self, rng: random.Random) -> None:
        """Settle what is random about this answer, before it begins."""

    def begin(self) -> None:
        """The request is accepted."""

    def token(self, due_s: float, count: int) -> None:
        """The engine has one more token, or so many at once."""
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
            self.service.release(self)
            self.service.ended(self)
            self.sequence.held.content = None  # it refers to this answer: without the cycle, no collector is needed

    def note(self, now_s: float, count: int) -> None:
        """Keep the time of tokens for the server's metrics."""
        self.more_tokens += count - 1
        if self.first_s is None:
            self.first_s = now_s
            metrics = self.metrics
            metrics.ttft.observe(now_s - self.received_s)
            metrics.prompt_tokens += self.request.prompt_tokens
            metrics.cached_tokens += self.sequence.cached_tokens
        self.token_s.append(now_s)

    def log(self, due_s: float, written_s: float) -> None:
        """Keep the times of a chunk for the ground-truth log."""
        self.chunk_due_s.append(due_s)
        if self.chunk_written_s is not self.token_s:
            self.chunk_written_s.append(written_s)

    def count(self) -> None:
        """Bring the server's metrics up to date: gaps are not counted one by one, for tokens are many."""
        if self.carousel is not None:
            self.carousel.catch_up(self)
        metrics, tokens = self.metrics, self.tokens
        metrics.generation_tokens += tokens - self._tokens_counted
        self._tokens_counted = tokens
        if len(self.token_s) > self._gaps_counted + 1:
            metrics.itl.observe_gaps(self.token_s[self._gaps_counted :].tolist())
            self._gaps_counted = len(self.token_s) - 1

    def count_end(self, now_s: float) -> None:
        """Bring into the server's metrics what is known at the end."""
        self.count()
        metrics = self.metrics
        metrics.finished[self.finish_reason or ("abort" if self.aborted else "error")] += 1
        metrics.e2e.observe(now_s - self.received_s)
        admitted_s = self.sequence.admitted_s
        metrics.queue.observe((now_s if admitted_s is None else admitted_s) - self.received_s)
        if admitted_s is not None and self.first_s is not None:
            metrics.prefill.observe(self.first_s - admitted_s)
            metrics.decode.observe(self.token_s[-1] - self.first_s)
            if (tokens := self.tokens) > 1:
                metrics.tpot.observe((self.token_s[-1] - self.first_s) / (tokens - 1))

    def extras(self) -> Extras:
        """What is told about a complete answer."""
        told = self.service.prompt_tokens_details or self.service.per_request_metrics
        return Extras(self.timings(), self.sequence.cached_tokens if told else None)

    def _content(self, token: int) -> Hashable:
        """What the cache compares of the answer's token number `token`: an id if the prompt is ids, else a word."""
        word = self.word(token)
        return self.words.ids[word] if isinstance(self.request.prompt[0], int) else self.words.words[word]

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
            "model": self.request.name,
            "received_s": self.received_s,
            "prompt_tokens": self.request.prompt_tokens,
            "max_tokens": self.request.max_tokens,
            "output_tokens": self.tokens,
            "chunk_due_s": self.chunk_due_s,
            "chunk_written_s": self.chunk_written_s.tolist(),
            "status": self.status,
            "finish_reason": self.finish_reason,
            "aborted": self.aborted,
            "fault": self.fault,
        }


class WholeAnswer(Answer):
    """An answer that is not streamed: one body, when the last token is there."""

    __slots__ = ()

    def token(self, due_s: float, count: int) -> None:
        now_s = time.perf_counter()
        if self.tokens + count < self.total:
            self.note(now_s, count)
            return
        text = "".join(self.words.texts[self.word(token)] for token in range(1, self.total + 1))
        body = orjson.dumps(self.renderer.whole(text, self.total, self.reason, self.extras()))
        self.note(now_s, count)
        self.log(due_s, time.perf_counter())
        self.finish_reason = self.reason
        self.wire.respond(200, body, headers={"x-request-id": self.request_id})
        self.end()
        self.wire.done()


class StreamAnswer(Answer):
    """An answer as server-sent events."""

    __slots__ = ("_held", "interval")

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
        if self.plain and self.interval == request.model.engine.tokens_at_once == 1:
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
        """An event as it stands in the body."""
        return framed(event)

    def text(self, word: int) -> bytes:
        return self.words.json[word]

    def token(self, due_s: float, count: int) -> None:
        had = self.tokens
        tokens = had + count
        self._held += map(self.word, range(had + 1, tokens + 1))
        last = tokens == self.total
        if not last and had and len(self._held) < self.interval:
            self.note(time.perf_counter(), count)
            return
        held, self._held = self._held, []
        text = b"".join(map(self.text, held))
        ids = [self.words.ids[word] for word in held]
        if last:
            events = self.renderer.last(text, tokens, ids, self.reason, self.extras())
        else:
            events = [self.renderer.chunk(text, tokens, ids)]
        if not had:
            events = self.renderer.first() + events
        if not had and not last:
            self._prepare(tokens)
        data = b"".join(map(self.frame, events))
        self.deliver(due_s, data + self.last_chunk if last else data, count, last)

    def _prepare(self, had: int) -> None:
        """Have all chunks from here to the last but one at hand, if each will be a token and only their words differ."""
        if self.chunk_written_s is self.token_s and not self.renderer.varies:
            rest = range(had + 1, self.total)
            self.phrase = chunks(self.words, self._first_word, self.renderer.head, self.renderer.tail)
            self.ready = repeated(self.phrase, rest)

    def deliver(self, due_s: float, data: bytes, count: int, last: bool) -> None:
        """Write a chunk with all that goes with it; after the last one the answer has ended."""
        now_s = time.perf_counter()
        self.write(data)
        self.note(now_s, count)
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
