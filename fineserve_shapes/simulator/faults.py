"""What can go wrong with an answer, on purpose: which request meets which fault, and how each fault bends it.

A fault depends on the seed and the request's id alone (and on how often that id was refused, since a client may retry),
so the same plan meets the same faults in any order. Those of HTTP answer at once; the others bend a stream, each as a
subclass of `StreamAnswer`. Answers that are not streamed meet only those of HTTP.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.answers import StreamAnswer
from fineserve_shapes.simulator.rendering import DONE

COMMENT_INTERVAL_S = 0.25
SLOW_HEADERS_S = 1.0
_ENGINE_DEAD = (
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
    b'"type": "InternalServerError", "param": null, "code": 500}}\n\n'
)
_REMEMBERED_IDS = 100_000


class StruckAnswer(StreamAnswer):
    """A stream that goes wrong instead of giving token number `strike_at` (from 1)."""

    earliest = 2  # in mid-stream: something good came before

    def draw(self, rng: random.Random) -> None:
        self.strike_at = rng.randint(min(self.earliest, self.total), self.total)

    def token(self, due_s: float, count: int) -> None:
        if self.tokens + count >= self.strike_at:
            self.service.release(self)  # the engine has no more to do with it
            self.strike()
        else:
            super().token(due_s, count)

    def strike(self) -> None:
        raise NotImplementedError

    def finish(self, data: bytes) -> None:
        """End the body properly after these bytes."""
        self.write(data + self.last_chunk)
        self.end()
        self.wire.done()


class ErrorMidstream(StruckAnswer):
    """An error event, then `[DONE]`, as vLLM does when its engine dies."""

    def strike(self) -> None:
        self.finish(self.frame(_ENGINE_DEAD) + self.frame(DONE))


class ErrorMidstreamNoDone(StruckAnswer):
    """An error event whose error is a text, and nothing after it, as `transformers serve` does."""

    def strike(self) -> None:
        self.finish(self.frame(b'data: {"error": "the simulator was asked to fail here"}\n\n'))


class Garbage(StruckAnswer):
    """Bytes that are no JSON in an event, where a token should be."""

    def strike(self) -> None:
        noise = random.Random(self.request_id).randbytes(60).replace(b"\n", b"?").replace(b"\r", b"?")
        self.finish(self.frame(b'data: {"id":' + noise + b"\n\n"))


class GarbageFraming(StruckAnswer):
    """Bytes that are no HTTP chunk; then the connection closes."""

    def strike(self) -> None:
        self.write(b"this is no chunk size\r\n\xff\xfe")
        self.end()
        self.wire.close()


class Truncate(StruckAnswer):
    """The connection closes in the middle of an event."""

    def strike(self) -> None:
        self.write(b'f0\r\ndata: {"id":"')
        self.end()
        self.wire.close()


class Reset(StruckAnswer):
    """The connection is reset."""

    def strike(self) -> None:
        self.end()
        self.wire.reset()


class Stall(StruckAnswer):
    """Never another byte, on an open connection; the log has its line when the client gives up."""

    earliest = 1

    def strike(self) -> None:
        pass


class Comments(StruckAnswer):
    """Only comment lines from here on, for ever: bytes that are no progress."""

    earliest = 1

    def strike(self) -> None:
        if self.open:
            self.write(self.frame(b": keep-alive\n\n"))
            self.service.loop.call_later(COMMENT_INTERVAL_S, self.strike)


class Endless(StreamAnswer):
    """Tokens beyond max_tokens, without end."""

    asked = 0

    def token(self, due_s: float, count: int) -> None:
        if not self.asked:
            self.asked, self.total = self.total, -1  # no count of tokens is the last one
        super().token(due_s, count)
        if self.sequence.generated == self.sequence.output_tokens:
            self.service.resume(self)


class Crlf(StreamAnswer):
    """Lines end in CR LF."""

    def frame(self, event: bytes) -> bytes:
        return super().frame(event.replace(b"\n", b"\r\n"))


class SplitJson(StreamAnswer):
    """Every event over three HTTP chunks, cut anywhere, also within a character; and each write cut in two."""

    def frame(self, event: bytes) -> bytes:
        first, second = sorted((len(self.request_id) * 7919 + len(event) * k) % (len(event) - 1) + 1 for k in (1, 5))
        parts = event[:first], event[first:second], event[second:]
        return b"".join(super(SplitJson, self).frame(part) for part in parts if part)

    def write(self, data: bytes) -> None:
        middle = len(data) // 2
        super().write(data[:middle])
        super().write(data[middle:])


class MultiToken(StreamAnswer):
    """Four tokens a chunk, after a first chunk of one, as vLLM with --stream-interval 4."""

    tokens_per_chunk = 4


class EmptyText(StreamAnswer):
    """About every third token has no text, and is a token all the same."""

    def text(self, word: int) -> bytes:
        return super().text(word) if word % 3 else b""


class SlowHeaders(StreamAnswer):
    """Headers come SLOW_HEADERS_S late, and what was generated meanwhile with them."""

    released = False

    @property
    def tokens(self) -> int:
        return super().tokens + sum(count for _, _, count, _ in self._waiting)

    def begin(self) -> None:
        self._waiting: list[tuple[float, bytes, int, bool]] = []
        self.service.loop.call_later(SLOW_HEADERS_S, self._release)

    def deliver(self, due_s: float, data: bytes, count: int, last: bool) -> None:
        if self.released:
            super().deliver(due_s, data, count, last)
        else:
            self._waiting.append((due_s, data, count, last))

    def _release(self) -> None:
        if self.open:
            super().begin()
            self.released = True
            waiting, self._waiting = self._waiting, []
            for chunk in waiting:
                super().deliver(*chunk)


class CloseDelimited(StreamAnswer):
    """HTTP/1.0: no chunks, the body ends where the connection does. Also what HTTP/1.0 clients get."""

    last_chunk = b""
    closes = True
    headers: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8", "connection": "close"}

    def head(self) -> bytes:
        return self.wire.head(200, {**self.headers, "x-request-id": self.request_id}, http_1_0=True)

    def frame(self, event: bytes) -> bytes:
        return event


STREAM_FAULTS: Mapping[str, type[StreamAnswer]] = {
    "error_midstream": ErrorMidstream,
    "error_midstream_no_done": ErrorMidstreamNoDone,
    "truncate": Truncate,
    "reset": Reset,
    "stall": Stall,
    "comments": Comments,
    "crlf": Crlf,
    "split_json": SplitJson,
    "multi_token": MultiToken,
    "empty_text": EmptyText,
    "garbage": Garbage,
    "garbage_framing": GarbageFraming,
    "endless": Endless,
    "slow_headers": SlowHeaders,
    "http_1_0": CloseDelimited,
}
for _kind, _class in STREAM_FAULTS.items():
    _class.fault = _kind
HTTP_FAULTS: Mapping[str, tuple[int, str, Mapping[str, str]]] = {
    "http_500": (500, "InternalServerError", {}),
    "http_429": (429, "Too Many Requests", {"retry-after": "1"}),
}
KINDS = (*HTTP_FAULTS, *STREAM_FAULTS)


@dataclass(frozen=True, slots=True)
class FaultShares:
    """Probability of each kind of fault; they exclude each other, so the sum is at most 1."""

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        for kind, share in self.shares.items():
            if kind not in KINDS:
                raise InputError(f"unknown fault {kind!r}; there are {', '.join(KINDS)}")
            if not 0.0 <= share <= 1.0:
                raise InputError(f"the probability of fault {kind} must lie in 0..1, got {share}")
        if sum(self.shares.values()) > 1.0 + 1e-9:
            raise InputError(f"the probabilities of faults add up to {sum(self.shares.values())}, above 1")

    @staticmethod
    def parse(text: str) -> "FaultShares":
        """Read `KIND=PROBABILITY[,KIND=PROBABILITY...]`."""
        shares = {}
        for item in filter(None, text.split(",")):
            kind, _, share = item.partition("=")
            try:
                shares[kind.strip()] = float(share)
            except ValueError:
                raise InputError(f"a fault is KIND=PROBABILITY, got {item!r}") from None
        return FaultShares(shares)


class FaultDraw:
    """Decides which request meets which fault."""

    def __init__(self, shares: FaultShares, seed: int) -> None:
        self._shares = shares.shares
        self._seed = seed
        self._refused: Counter[str] = Counter()

    def draw(self, request_id: str) -> tuple[str | None, random.Random]:
        """The fault of a request, if any, and the randomness for its details."""
        rng = random.Random(f"{self._seed}/{request_id}/{self._refused[request_id]}")
        point = rng.random()
        for kind, share in self._shares.items():
            if point < share:
                if kind in HTTP_FAULTS and len(self._refused) < _REMEMBERED_IDS:
                    self._refused[request_id] += 1  # a retry draws anew
                return kind, rng
            point -= share
        return None, rng
