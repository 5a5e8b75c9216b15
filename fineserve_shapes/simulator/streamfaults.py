"""Streams that go wrong: each a subclass of `StreamAnswer` that bends it in time, in its end, or in its framing.

What other servers write though nothing is wrong is in `dialects.py`.
"""

import random
from collections.abc import Mapping
from typing import Any

from fineserve_shapes.simulator.answers import StreamAnswer
from fineserve_shapes.simulator.rendering import DONE, ENGINE_DEAD

COMMENT_INTERVAL_S = 0.25
SLOW_HEADERS_S = 1.0
PAUSE_S = 1.0


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
        self.finish(self.frame(ENGINE_DEAD) + self.frame(DONE))


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


class FinishAbort(StruckAnswer):
    """Ends with a finish_reason that no client asked for, before its length."""

    reason_told = "abort"

    def strike(self) -> None:
        events = self.renderer.last(b"", self.tokens, [], self.reason_told, self.extras())
        self.finish_reason = self.reason_told
        self.finish(b"".join(map(self.frame, events)))


class FinishError(FinishAbort):
    """The same with "error"."""

    reason_told = "error"


class MergedJson(StruckAnswer):
    """The rest of an event is lost, and the next one follows in its midst, as a proxy did that cut by bytes."""

    def strike(self) -> None:
        event = self.renderer.chunk(self.text(self.word(self.tokens + 1)), self.tokens + 1, [])
        self.finish(self.frame(event[: len(event) // 2] + event) + self.frame(DONE))


class OpenAfterDone(StreamAnswer):
    """Complete, `[DONE]` included, but the body never ends: the connection stays open and silent."""

    last_chunk = b""

    def deliver(self, due_s: float, data: bytes, count: int, last: bool) -> None:
        if last:
            # another request must not be answered in this one's body
            self.wire.hang()
        super().deliver(due_s, data, count, last)


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


class HeldBack(StreamAnswer):
    """Chunks wait from a certain moment to another, and then come all at once."""

    holds = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting: list[tuple[float, bytes, int, bool]] = []

    @property
    def tokens(self) -> int:
        return super().tokens + sum(count for _, _, count, _ in self._waiting)

    def hold(self, for_s: float) -> None:
        self.holds = True
        self.service.loop.call_later(for_s, self._let_go)

    def deliver(self, due_s: float, data: bytes, count: int, last: bool) -> None:
        if self.holds:
            self._waiting.append((due_s, data, count, last))
        else:
            super().deliver(due_s, data, count, last)

    def before_release(self) -> None:
        """The wait is over."""

    def _let_go(self) -> None:
        if self.open:
            self.before_release()
            self.holds = False
            waiting, self._waiting = self._waiting, []
            for chunk in waiting:
                super().deliver(*chunk)


class SlowHeaders(HeldBack):
    """Headers come SLOW_HEADERS_S late, and what was generated meanwhile with them."""

    def begin(self) -> None:
        self.hold(SLOW_HEADERS_S)

    def before_release(self) -> None:
        super().begin()


class Pause(HeldBack):
    """Nothing for PAUSE_S in mid-stream; then what was generated meanwhile, and on it goes."""

    def draw(self, rng: random.Random) -> None:
        self._pause_at = rng.randint(1, self.total)

    def deliver(self, due_s: float, data: bytes, count: int, last: bool) -> None:
        if self.tokens < self._pause_at <= self.tokens + count:
            self.hold(PAUSE_S)
        super().deliver(due_s, data, count, last)


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
    "finish_abort": FinishAbort,
    "finish_error": FinishError,
    "truncate": Truncate,
    "reset": Reset,
    "stall": Stall,
    "pause": Pause,
    "comments": Comments,
    "crlf": Crlf,
    "split_json": SplitJson,
    "merged_json": MergedJson,
    "multi_token": MultiToken,
    "empty_text": EmptyText,
    "garbage": Garbage,
    "garbage_framing": GarbageFraming,
    "endless": Endless,
    "open_after_done": OpenAfterDone,
    "slow_headers": SlowHeaders,
    "http_1_0": CloseDelimited,
}
