"""One answer, as it arrives: timed bytes in, a StreamResult out.

What may live here: the meaning of time stamps (TTFT, TPOT, gaps) and of an end (whole, short, failed). The stamps are
the caller's; nothing here reads a clock.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.protocol.openai import DONE, Delta, http_error_text, read_answer, read_event
from fineserve_shapes.protocol.sse import SSEDecoder, SSEError

MAX_BODY_BYTES = 16 * 2**20
MAX_ERROR_BODY_BYTES = 64 * 2**10

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What became of one request. Times are the caller's clock, seconds; None where there was no such moment.

    outcome: ok, http_error, stream_error, timeout, connect_error or cancelled.
    error: one line of text, None for an ok.
    first_visible_s: first content that is no reasoning.
    chunk_times_s: when each chunk that carries tokens came, shape (chunks,).
    output_tokens: by the server's usage where it gives it, else counted chunks (`tokens_from` says which).
    first_chunk_tokens: tokens in the first of those chunks; `first_chunk_known` is False where 1 is assumed.
    short: an ok that ended before the asked length.
    body_bytes: of the answer, without HTTP's framing.
    """

    outcome: str
    error: str | None
    sent_s: float
    end_s: float
    first_token_s: float | None = None
    first_visible_s: float | None = None
    last_token_s: float | None = None
    chunk_times_s: FloatArray = field(default_factory=lambda: np.empty(0))
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_from: str = "none"
    first_chunk_tokens: int = 1
    first_chunk_known: bool = False
    finish_reason: str | None = None
    short: bool = False
    retried: bool = False
    reused: bool = False
    status: int | None = None
    retry_after_s: float | None = None
    server_metrics: Mapping[str, Any] | None = None
    body_bytes: int = 0

    @property
    def ttft_s(self) -> float | None:
        """First token less sent."""
        return None if self.first_token_s is None else self.first_token_s - self.sent_s

    @property
    def e2e_s(self) -> float:
        """End of the answer less sent."""
        return self.end_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first chunk; None for fewer than two tokens."""
        if self.first_token_s is None or self.last_token_s is None or self.output_tokens is None:
            return None
        tokens = self.output_tokens - self.first_chunk_tokens
        return (self.last_token_s - self.first_token_s) / tokens if tokens > 0 else None

    @property
    def itl_s(self) -> FloatArray:
        """Gaps between chunks that carry tokens, shape (chunks - 1,)."""
        return np.diff(self.chunk_times_s)


class StreamReader:
    """Reads one answer and says in the end what became of it.

    An answer whose first byte opens JSON is read as a whole, any other as a stream, whatever was asked for: a server
    may answer a stream's request with an error object.

    asked_tokens: how many were asked for, to know a short answer and an endless one.
    """

    __slots__ = (
        "_body",
        "_choices",
        "_continuous",
        "_counted",
        "_error",
        "_finish_s",
        "_first_tokens",
        "_first_visible_s",
        "_is_json",
        "_metrics",
        "_retry_after_s",
        "_sse",
        "_usage_seen",
        "asked_tokens",
        "body_bytes",
        "hopeless",
        "input_tokens",
        "output_tokens",
        "status",
        "times_s",
    )

    def __init__(self, asked_tokens: int) -> None:
        self.asked_tokens = asked_tokens
        self.status: int | None = None
        self.body_bytes = 0
        self._retry_after_s: float | None = None
        self.times_s = array("d")
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self._sse = SSEDecoder()
        self._is_json: bool | None = None  # not known before the first byte of the body
        self._body = bytearray()
        self._choices: dict[int, str | None] = {}
        self._counted = 0  # tokens by token ids, or one per chunk
        self._continuous: bool | None = None  # usage on every chunk: known from the first chunk with a choice
        self._usage_seen = 0
        self._finish_s: float | None = None  # when the finish_reason came
        self._first_tokens: int | None = None
        self._first_visible_s: float | None = None
        self._metrics: Mapping[str, Any] | None = None
        self._error: str | None = None
        self.hopeless = False  # reading on would change nothing and cost memory: the connection should be closed

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return self._counted if self.output_tokens is None else self.output_tokens

    def headers(self, status: int, retry_after_s: float | None = None) -> None:
        """The status line and headers have come. retry_after_s: when the server wants to be asked again, if it says."""
        self.status = status
        self._retry_after_s = retry_after_s

    def feed(self, data: bytes, at_s: float) -> bool:
        """Take bytes of the body, which came at a time; whether they were progress (a token, not a comment)."""
        self.body_bytes += len(data)
        if self.status != 200:
            self.hopeless = not self._keep(data, MAX_ERROR_BODY_BYTES)
            return True
        if self._is_json is None:
            start = data.lstrip()
            if not start:
                return False
            self._is_json = start[:1] in (b"{", b"[")
        if self._is_json:
            if not self._keep(data, MAX_BODY_BYTES):
                self._give_up(f"an answer of more than {MAX_BODY_BYTES} bytes")
            return True
        try:
            payloads = self._sse.feed(data)
        except SSEError as error:
            self._give_up(str(error))
            return False
        before = len(self.times_s)
        for payload in payloads:
            self._take(payload, at_s)
        return len(self.times_s) > before

    def _keep(self, data: bytes, limit: int) -> bool:
        self._body += data[: limit - len(self._body)]
        return len(self._body) < limit

    def _give_up(self, error: str) -> None:
        self._error = self._error or error
        self.hopeless = True

    def _take(self, payload: bytes, at_s: float) -> None:
        if payload == DONE or not payload:
            return
        delta = read_event(payload)
        if delta.error is not None:
            self._error = self._error or delta.error
            return
        self._choices.update(
            (index, finish) for index, finish in delta.choices if finish is not None or index not in self._choices
        )
        if any(finish is not None for _, finish in delta.choices):
            self._finish_s = at_s
        tokens, carries = delta.tokens, delta.carries_token
        if delta.usage is not None:
            self.input_tokens = delta.usage.input_tokens
            counted = delta.usage.output_tokens
            if counted is not None:
                if delta.choices and (carries or counted) and self._continuous is None:
                    self._continuous = True
                if self._continuous and delta.choices:
                    tokens = counted - self._usage_seen
                    carries = tokens > 0
                self._usage_seen = self.output_tokens = counted
        elif carries and self._continuous is None:
            self._continuous = False
        if carries:
            if not self.times_s:
                self._first_tokens = tokens
            self.times_s.append(at_s)
            self._counted += tokens or 1
            if delta.visible and self._first_visible_s is None:
                self._first_visible_s = at_s
            if self._counted > 2 * self.asked_tokens + 1024:  # a server that never stops must not be read for ever
                self._give_up(f"{self._counted} tokens came where {self.asked_tokens} were asked for")
        if delta.server_metrics is not None:
            self._metrics = delta.server_metrics

    def finish(
        self, sent_s: float, end_s: float, *, whole: bool, retried: bool = False, reused: bool = False
    ) -> StreamResult:
        """The answer has ended.

        whole: whether HTTP's framing says that nothing is missing.
        """
        outcome, error = self._verdict(end_s, whole)
        return self._result(outcome, error, sent_s, end_s, retried, reused)

    def stop(
        self, outcome: str, error: str, sent_s: float, end_s: float, *, retried: bool = False, reused: bool = False
    ) -> StreamResult:
        """The answer was given up (a deadline, the end of the run): what there is of it.

        A server that reported an error and then kept the connection open is still a server that reported an error.
        """
        if outcome == "timeout" and self._error is not None:
            outcome, error = "stream_error", self._error
        return self._result(outcome, error, sent_s, end_s, retried, reused)

    def _verdict(self, end_s: float, whole: bool) -> tuple[str, str | None]:
        if self.status is None:
            return "stream_error", "the connection ended before an answer"
        if self.status != 200:
            return "http_error", http_error_text(self.status, bytes(self._body))
        if self._is_json:
            self._read_whole()
        elif self._error is None:
            for payload in self._sse.end():
                self._take(payload, end_s)
        if self._error is not None:
            return "stream_error", self._error
        if self._choices and None not in self._choices.values():
            return "ok", None  # every choice is finished: what HTTP or [DONE] would add is nothing of the answer
        if not whole:
            return "stream_error", "the connection ended in the middle of the answer"
        if not self._choices:
            return "stream_error", "the answer holds no choice"
        return "stream_error", "the answer ended without a finish_reason"

    def _read_whole(self) -> None:
        delta: Delta = read_answer(bytes(self._body))
        if delta.error is not None:
            self._error = self._error or delta.error
            return
        self._choices.update(delta.choices)
        if delta.usage is not None:
            self.input_tokens, self.output_tokens = delta.usage.input_tokens, delta.usage.output_tokens
        self._metrics = delta.server_metrics

    def _result(
        self, outcome: str, error: str | None, sent_s: float, end_s: float, retried: bool, reused: bool
    ) -> StreamResult:
        from_usage = self.output_tokens is not None
        if self.output_tokens and not self.times_s and self._finish_s is not None:
            self.times_s.append(self._finish_s)  # usage says that the empty chunk with the finish_reason was a token
        output_tokens = self.output_tokens if from_usage else (self._counted or None)
        reasons = [reason for reason in self._choices.values() if reason is not None]
        return StreamResult(
            outcome=outcome,
            error=error,
            sent_s=sent_s,
            end_s=end_s,
            first_token_s=self.times_s[0] if self.times_s else None,
            first_visible_s=self._first_visible_s,
            last_token_s=self.times_s[-1] if self.times_s else None,
            chunk_times_s=np.array(self.times_s, dtype=np.float64),
            input_tokens=self.input_tokens,
            output_tokens=output_tokens,
            tokens_from="usage" if from_usage else "chunks" if self._counted else "none",
            first_chunk_tokens=self._first_tokens or 1,
            first_chunk_known=self._first_tokens is not None,
            finish_reason=reasons[0] if reasons else None,
            short=outcome == "ok" and output_tokens is not None and output_tokens < self.asked_tokens,
            retried=retried,
            reused=reused,
            status=self.status,
            retry_after_s=self._retry_after_s,
            server_metrics=self._metrics,
            body_bytes=self.body_bytes,
        )
