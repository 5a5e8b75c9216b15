"""One answer, as it arrives: timed bytes in, a Result out.

What may live here: the meaning of time stamps (TTFT, TPOT, gaps) and of an end (whole, short, failed). The stamps are
the caller's; nothing here reads a clock.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from typing import Any

from fineserve_shapes.outcome import Outcome
from fineserve_shapes.protocol.endings import is_failure
from fineserve_shapes.protocol.openai import (
    Delta,
    http_error_text,
    is_done,
    is_json,
    merged_events,
    no_event,
    read_answer,
    read_event,
)
from fineserve_shapes.protocol.repeats import Ahead, Repeat, Repeats, TextRepeat
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.protocol.sse import MAX_EVENT_BYTES, SSEDecoder, SSEError
from fineserve_shapes.protocol.tokens import Kind, Pieces, count_tokens
from fineserve_shapes.text import shorten

MAX_BODY_BYTES = 16 * 2**20
MAX_ERROR_BODY_BYTES = 64 * 2**10
HEAD_BYTES = 200


class AnswerReader:
    """Reads one answer and says in the end what became of it.

    An answer whose first byte opens JSON is read as a whole, any other as a stream, whatever was asked for: a server
    may answer a stream's request with an error object.

    Which pieces are tokens and how many: `tokens.count_tokens`. What ends an answer, and how:

    | what came | outcome |
    |---|---|
    | an error event, or a finish_reason that is a failure (`endings`) | stream_error, also after a finish_reason |
    | a finish_reason for as many choices as were asked for, whatever their numbers | ok |
    | `[DONE]`, usage without choices after the tokens, or whole JSON, but no finish_reason | ok, `no_finish_reason` |
    | HTTP says that all is there, and every choice that came has its finish_reason | ok |
    | anything else | stream_error |

    `[DONE]` ends the answer: what comes after it changes nothing. The end of an ok is the time of `[DONE]`, or else of
    the last event. A connection that is lost, or a deadline that passes, after an ok came changes nothing either.

    asked_tokens: how many were asked for in each choice, to know a short answer and an endless one; None: no bound.
    choices: how many were asked for (`n`). candidates: how many the server makes for them (`best_of`), if more.

    Whoever reads for it may tell repeats of `repeat` apart itself, and bring them with `take_repeats`: `ahead` are those
    that are told and not brought yet.
    """

    __slots__ = (
        "_body", "_choices", "_counted", "_error", "_event_s", "_final_usage", "_finished", "_first_visible_s",
        "_head", "_is_json", "_metrics", "_most_tokens", "_partial", "_pieces", "_repeats", "_result_tokens",
        "_retry_after_s", "_sse", "_usage_ended", "ahead", "asked_tokens", "body_bytes", "choices", "done",
        "first_token_s", "hopeless", "input_tokens", "sent_s", "status",
    )  # fmt: skip

    def __init__(self, asked_tokens: int | None, choices: int = 1, candidates: int = 1) -> None:
        self.asked_tokens = asked_tokens
        self.choices = choices
        # a server that never stops must not be read for ever
        self._most_tokens = sys.maxsize if asked_tokens is None else 2 * asked_tokens * max(choices, candidates) + 1024
        self.status: int | None = None
        self.body_bytes = 0
        self.input_tokens: int | None = None
        self.sent_s: float | None = None  # when the request was handed to the socket layer: for whoever asks meanwhile
        self.first_token_s: float | None = None
        self.done = False  # [DONE] has come
        self.hopeless = False  # reading on would change nothing and cost memory: the connection should be closed
        self.ahead: Ahead | None = None
        self._retry_after_s: float | None = None
        self._sse = SSEDecoder()
        self._is_json: bool | None = None  # not known before the first byte of the body
        self._body = bytearray()
        self._head = b""  # of a body in which no event has been found so far
        self._partial = b""  # an event that is the beginning of one
        self._pieces = Pieces()
        self._first_visible_s: float | None = None
        self._repeats = Repeats()
        self._counted = 0  # tokens by token ids, or one for each content
        self._final_usage: int | None = None
        self._usage_ended = False  # usage without choices came after the last token
        self._result_tokens: int | None = None
        self._choices: dict[int, str | None] = {}
        self._finished = 0  # choices with a finish_reason
        self._event_s: float | None = None  # when the last event came
        self._metrics: Mapping[str, Any] | None = None
        self._error: str | None = None

    @property
    def tokens(self) -> int:
        """Output tokens so far: as they were counted, until the end of the answer tells better."""
        if self._result_tokens is not None:
            return self._result_tokens
        return self._counted if self.ahead is None else self._counted + self.ahead.held

    @property
    def repeat(self) -> TextRepeat | None:
        """What tells events that equal the last one but for their text, in a body that holds one of them and no more."""
        repeat = self._repeats.framed
        return repeat if type(repeat) is TextRepeat and self._sse.between_events and self.status == 200 else None

    @property
    def most_repeats(self) -> int:
        """How many more tokens it takes before it gives an answer up that does not end."""
        return self._most_tokens - self._counted

    def take_repeats(self, times_s: array[float], body_bytes: int) -> None:
        """Take events that `repeat` would have told, one token each, which came at these times and held these bytes."""
        repeat = self._repeats.framed
        if repeat is None:
            raise ValueError("there is no event that these repeat")
        self.body_bytes += body_bytes
        if self._pieces.usage:
            for at_s in times_s:
                self._take_repeat(repeat, at_s)
            return
        self._event_s = times_s[-1]
        self._usage_ended = False
        self._pieces.times_s.extend(times_s)
        self._counted += len(times_s)

    @property
    def complete(self) -> bool:
        """Whether the answer is a whole one already, or failed by its server's word: no end of HTTP changes that."""
        return self.done or self._error is not None or self._finished >= self.choices

    def headers(self, status: int, retry_after_s: float | None = None) -> None:
        """The status line and headers have come. retry_after_s: when the server wants to be asked again, if it says."""
        self.status = status
        self._retry_after_s = retry_after_s

    def feed(self, data: bytes, at_s: float) -> int:
        """Take bytes of the body, which came at a time; how many pieces with tokens they held (a comment is none).

        Bytes of anything but a stream count as one.
        """
        self.body_bytes += len(data)
        repeat = self._repeats.framed
        if repeat is not None and self._sse.between_events and repeat.is_told(data):
            self._take_repeat(repeat, at_s)
            return 1
        if self.status != 200:
            self.hopeless = not self._keep(data, MAX_ERROR_BODY_BYTES)
            return 1
        if self._is_json is None:
            start = data.lstrip()
            if not start:
                return 0
            self._is_json = start[:1] in (b"{", b"[")
        if self._is_json:
            self._event_s = at_s
            if not self._keep(data, MAX_BODY_BYTES):
                self._give_up(f"an answer of more than {MAX_BODY_BYTES} bytes")
            return 1
        if self._event_s is None and len(self._head) < HEAD_BYTES:
            self._head += data[:HEAD_BYTES]
        try:
            payloads = self._sse.feed(data)
        except SSEError as error:
            self._give_up(str(error))
            return 0
        tokens = 0
        for payload in payloads:
            repeat = self._repeats.bare
            if repeat is not None and repeat.is_told(payload):
                self._take_repeat(repeat, at_s)
                tokens += 1
            else:
                tokens += self._take(payload, at_s)
        return tokens

    def _keep(self, data: bytes, limit: int) -> bool:
        self._body += data[: limit - len(self._body)]
        return len(self._body) < limit

    def _fail(self, error: str) -> None:
        self._error = self._error or error

    def _give_up(self, error: str) -> None:
        self._fail(error)
        self.hopeless = True

    def _take(self, payload: bytes, at_s: float) -> bool:
        """Take one event; whether it held tokens."""
        if self.done or not payload:
            return False
        if is_done(payload):
            self.done, self._event_s = True, at_s
            self._repeats.forget()
            return False
        delta = read_event(payload)
        if delta.unreadable:
            self._repeats.forget()
            return self._take_unreadable(payload, delta, at_s)
        if self._partial:
            self._fail(no_event(self._partial))
        took = self._take_delta(delta, at_s)
        if took:
            self._repeats.learn(payload, delta, self._counted)
        return took

    def _take_delta(self, delta: Delta, at_s: float) -> bool:
        self._event_s = at_s
        if delta.error is not None:
            self._fail(delta.error)
            return False
        for index, reason in delta.choices:
            self._finish_choice(index, reason)
        usage = delta.usage
        if usage is not None:
            if usage.input_tokens is not None:
                self.input_tokens = usage.input_tokens
            if not delta.choices:
                self._final_usage = usage.output_tokens or self._final_usage
                self._usage_ended = bool(usage.output_tokens and self._pieces.times_s)
        if delta.server_metrics is not None:
            self._metrics = delta.server_metrics
        return bool(delta.choices) and self._add_piece(delta, at_s)

    def _take_repeat(self, repeat: Repeat, at_s: float) -> None:
        """Take an event like one that was taken before: what that one has set is set already."""
        self._event_s = at_s
        self._usage_ended = False
        usage = repeat.usage
        if usage is None and not self._pieces.usage:
            self._pieces.times_s.append(at_s)
        else:
            if usage is not None and usage.input_tokens is not None:
                self.input_tokens = usage.input_tokens
            self._pieces.add_content(at_s, None if usage is None else usage.output_tokens, repeat.choice)
        self._counted += 1
        if self._counted > self._most_tokens:
            self._give_up_endless()

    def _add_piece(self, delta: Delta, at_s: float) -> bool:
        usage = None if delta.usage is None else delta.usage.output_tokens
        kind = Kind.CONTENT
        if not delta.contents:
            kind = Kind.EMPTY if delta.empties else Kind.CLOSING if delta.closings else Kind.BARE
            if kind is Kind.BARE and usage is None:
                return False
        tokens = max(delta.tokens or 0, delta.contents)
        said, choice = delta.tokens is not None, delta.choices[0][0]
        self._pieces.add(at_s, kind, tokens, said=said, usage=usage, choice=choice)
        if kind is not Kind.CONTENT:
            return False
        self._usage_ended = False
        if self.first_token_s is None:
            self.first_token_s = at_s
        if delta.visible and self._first_visible_s is None:
            self._first_visible_s = at_s
        self._counted += tokens
        if self._counted > self._most_tokens:
            self._give_up_endless()
        return True

    def _give_up_endless(self) -> None:
        asked = f"{self.choices} x {self.asked_tokens}" if self.choices > 1 else f"{self.asked_tokens}"
        self._give_up(f"{self._counted} tokens came where {asked} were asked for")

    def _finish_choice(self, index: int, reason: str | None) -> None:
        before = self._choices.get(index)
        if reason is None:
            self._choices.setdefault(index, None)
            return
        self._finished += before is None
        self._choices[index] = reason
        if is_failure(reason):
            self._fail(f"the server gave the answer up: finish_reason {reason!r}")

    def _take_unreadable(self, payload: bytes, delta: Delta, at_s: float) -> bool:
        """An event that is no JSON by itself: several, or a part of one."""
        events = merged_events(payload)
        if events is None and self._partial:
            joined, self._partial = self._partial + payload, b""
            events = [joined] if len(joined) <= MAX_EVENT_BYTES and is_json(joined) else None
        elif events is None and payload.startswith(b"{"):
            self._partial = payload
            return False
        if events is None:
            self._event_s = at_s
            self._fail(delta.error or no_event(payload))
            return False
        return sum(self._take(event, at_s) for event in events) > 0  # each of them is taken

    def finish(
        self, sent_s: float, end_s: float, *, whole: bool, retried: bool = False, reused: bool = False
    ) -> Result:
        """The answer has ended.

        whole: whether HTTP's framing says that nothing is missing.
        """
        outcome, error = self._verdict(end_s, whole)
        return self._result(outcome, error, sent_s, end_s, retried, reused)

    def stop(
        self, outcome: Outcome, error: str, sent_s: float, end_s: float, *, retried: bool = False, reused: bool = False
    ) -> Result:
        """The answer was given up (a deadline, the end of the run): what there is of it.

        A server that had said all before, or had reported an error, and then kept the connection open did that.
        """
        if self.status == 200 and self.complete and not self._is_json:
            outcome, said = self._verdict(end_s, whole=False)
            error = said or ""
        return self._result(outcome, error or None, sent_s, end_s, retried, reused)

    def _verdict(self, end_s: float, whole: bool) -> tuple[Outcome, str | None]:
        if self.status is None:
            return Outcome.STREAM_ERROR, "the connection ended before an answer"
        if self.status != 200:
            return Outcome.HTTP_ERROR, http_error_text(self.status, bytes(self._body))
        if self._is_json:
            self._read_whole()
        elif self._error is None and not self.done:
            for payload in self._sse.end():
                self._take(payload, end_s if self._event_s is None else self._event_s)
            if self._partial:
                self._fail(no_event(self._partial))
        if self._error is not None:
            return Outcome.STREAM_ERROR, self._error
        finished = self._finished == len(self._choices)
        if self._finished >= self.choices or (self._finished and finished and (whole or self.done)):
            return Outcome.OK, None  # what HTTP or [DONE] would add is nothing of the answer
        if self._choices and (self._is_json or self._counted) and (self.done or self._usage_ended or self._is_json):
            return Outcome.OK, None  # whole by another sign than its finish_reason
        if not whole and not self.done:
            return Outcome.STREAM_ERROR, "the connection ended in the middle of the answer"
        if not self._choices:
            return Outcome.STREAM_ERROR, self._no_choice()
        return Outcome.STREAM_ERROR, "the answer ended without a finish_reason"

    def _no_choice(self) -> str:
        if self._event_s is None and self._head:
            return shorten(f"the answer is no event stream: {bytes(self._head[:HEAD_BYTES])!r}")
        return "the answer holds no choice"

    def _read_whole(self) -> None:
        delta: Delta = read_answer(bytes(self._body))
        if delta.error is not None:
            self._fail(delta.error)
            return
        for index, reason in delta.choices:
            self._finish_choice(index, reason)
        if delta.usage is not None:
            self.input_tokens, self._final_usage = delta.usage.input_tokens, delta.usage.output_tokens or None
        self._metrics = delta.server_metrics

    def _result(
        self, outcome: Outcome, error: str | None, sent_s: float, end_s: float, retried: bool, reused: bool
    ) -> Result:
        found = count_tokens(self._pieces, self._final_usage, self.choices)
        self._result_tokens = found.output_tokens or 0
        times_s = found.times_s
        ok = outcome == Outcome.OK
        asked = None if self.asked_tokens is None else self.asked_tokens * self.choices
        reasons = [reason for reason in self._choices.values() if reason is not None]
        return Result(
            outcome=outcome,
            error=error,
            sent_s=sent_s,
            end_s=self._event_s if ok and self._event_s is not None else end_s,
            first_token_s=float(times_s[0]) if len(times_s) else None,
            first_visible_s=self._first_visible_s,
            last_token_s=float(times_s[-1]) if len(times_s) else None,
            chunk_times_s=times_s,
            input_tokens=self.input_tokens,
            output_tokens=found.output_tokens,
            tokens_from="usage" if found.by_usage else "none" if found.output_tokens is None else "chunks",
            first_chunk_tokens=found.first_tokens,
            first_chunk_known=found.first_known,
            finish_reason=reasons[0] if reasons else None,
            asked_tokens=asked,
            no_finish_reason=ok and not reasons,
            short=ok and asked is not None and found.output_tokens is not None and found.output_tokens < asked,
            retried=retried,
            reused=reused,
            status=self.status,
            retry_after_s=self._retry_after_s,
            server_metrics=self._metrics,
            body_bytes=self.body_bytes,
        )
