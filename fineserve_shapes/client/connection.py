"""Connection: one exchange at a time over one connection, read in the hub with a time stamp on every piece."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import gevent
import httptools
from gevent.hub import Waiter

from fineserve_shapes.client.acknowledgements import LateAcknowledgements
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.retry import retry_after_s
from fineserve_shapes.client.transport import Transport
from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.answer import AnswerReader

if TYPE_CHECKING:
    from fineserve_shapes.client._lanes import Lane

_now = time.perf_counter
_MAX_HEAD_BYTES = 2**18  # of headers, trailers and framing between two pieces of a body
_LINGER_S = 1.0  # that HTTP may take to end after [DONE], for its connection to be used again
_SILENCE_S = 5.0  # after a whole answer without [DONE]: then it has ended


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long to wait, seconds: for a connection, for a next token (the first included), for the whole answer."""

    connect_s: float = 10.0
    progress_s: float = 300.0
    request_s: float = 3600.0

    def __post_init__(self) -> None:
        for flag, value in (("connect", self.connect_s), ("progress", self.progress_s), ("request", self.request_s)):
            if not value > 0:
                raise InputError(f"--{flag}-timeout must be positive, got {value:g}")


class _Over(Exception):
    """The answer has ended before the request was sent whole."""


class Pool:
    """The connections of a client to its server.

    idle: those that serve no request, an ordered set; the newest is taken first, any can be removed at once. lingering:
    those whose last answer has ended while HTTP has not.
    """

    __slots__ = ("acknowledgements", "idle", "lingering")

    def __init__(self) -> None:
        self.acknowledgements = LateAcknowledgements()
        self.idle: dict[Connection, None] = {}
        self.lingering: set[Connection] = set()


class Connection:
    """One connection, which serves one request at a time. Its read side runs in the hub."""

    __slots__ = (
        "_at_s",
        "_between_chunks",
        "_closed",
        "_deadlines",
        "_drained_s",
        "_framed",
        "_head_bytes",
        "_keep_alive",
        "_lane",
        "_linger_until_s",
        "_parser",
        "_pool",
        "_progress_s",
        "_reactor",
        "_reader",
        "_retry_after_s",
        "_sender",
        "_sent",
        "_started_s",
        "_token_pieces",
        "_token_s",
        "_transport",
        "_waiter",
        "_whole",
        "answered",
        "ended_s",
    )

    def __init__(self, transport: Transport, reactor: Reactor, deadlines: Deadlines, pool: Pool) -> None:
        self._transport = transport
        self._reactor = reactor
        self._deadlines = deadlines
        self._pool = pool
        self._closed = self._keep_alive = False
        self.answered = False  # whether any byte of an answer has come
        self.ended_s = 0.0  # when the end of the answer came, or its deadline passed
        self._waiter: Waiter | None = None
        self._reader: AnswerReader | None = None
        self._linger_until_s: float | None = None  # the answer has ended, HTTP has not
        self._token_pieces = 0  # of the read that goes on
        self._token_s: float | None = None  # when the last of an answer's tokens came
        self._drained_s = 0.0  # when there was last nothing left to read
        self._between_chunks = False  # HTTP's framing has ended a piece of the body, and told of no other
        self._lane: Lane | None = None
        self._sender: tuple[Waiter, gevent.Greenlet] | None = None  # who is sending, for which exchange
        reactor.add(transport.fileno(), self._on_readable, self._on_read)

    def exchange(self, request: bytes, reader: AnswerReader, started_s: float) -> str:
        """Send a request and wait for its end: "done", "eof", "reset", "garbage", "hopeless" or a deadline's text."""
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self.answered = self._framed = self._keep_alive = self._sent = self._whole = False
        self._head_bytes = 0
        self._started_s = started_s
        self._at_s = self._progress_s = self._drained_s = _now()
        self._token_s = None
        self._waiter = waiter = Waiter()
        if self._reactor.new_lane is not None and self._transport.stamped is not None:
            self._lay(b"", b"", 0, 0.0)
        self._reactor.watch(self)
        self._sender = waiter, gevent.getcurrent()
        try:
            end: str = self._send(request) or waiter.get()
        finally:
            self._reactor.serve(self._transport.fileno())  # where it is cut short, what has come counts
            self._lift_lane()
            self._pool.acknowledgements.end(self._transport, reader.tokens)
        return end

    def _send(self, request: bytes) -> str | None:
        """Send it whole; where that takes too long, what ends the exchange."""
        try:
            self._transport.send_all(request, self._deadlines.progress_s)
            self._sent = True
        except TimeoutError:
            self.ended_s = _now()
            return f"the request could not be sent within {self._deadlines.progress_s:g} s"
        except (OSError, _Over):
            pass  # what the server said before it hung up, if anything, is still to be read
        finally:
            self._sender = None
        return None

    def quiet(self) -> bool:
        """Whether an idle connection is good for another request: what comes on it, its end say, closes it."""
        self._reactor.serve(self._transport.fileno())
        if not self._closed and self._transport.readable():
            self._on_readable()
        return not self._closed

    def release(self) -> None:
        """The exchange is over: keep the connection if it may serve another, else close it."""
        lingers = self._reader is not None and self._reader.done and self._framed
        self._waiter = self._reader = None
        if lingers and self._sent and not self._closed:
            self._linger_until_s = _now() + _LINGER_S
            self._reactor.watch(self)
            self._pool.lingering.add(self)
        else:
            self._settle()

    def _settle(self) -> None:
        """Nothing more of the answer is to come."""
        self._reactor.unwatch(self)
        if self._keep_alive and self._sent and not self._closed:
            self._pool.idle[self] = None
        else:
            self.close()

    def close(self) -> None:
        """Close it, in the middle of an answer if need be."""
        if not self._closed:
            self._closed = True
            self._lift_lane()
            self._reactor.unwatch(self)
            self._reactor.remove(self._transport.fileno())
            self._transport.close()
            self._pool.idle.pop(self, None)
            self._pool.lingering.discard(self)

    def check(self, now_s: float) -> float:
        """Give up if a deadline has passed; when the next one may."""
        limits = self._deadlines
        if self._linger_until_s is not None:
            if now_s > self._linger_until_s:
                self.close()
            return self._linger_until_s
        acknowledgements = self._pool.acknowledgements
        if now_s >= acknowledgements.due_s(self._transport) and self._reader is not None:
            acknowledgements.end(self._transport, self._reader.tokens)
        quiet_s = min(limits.progress_s, _SILENCE_S)
        if now_s - self._progress_s > quiet_s or now_s - self._started_s > limits.request_s:
            self._reactor.serve(self._transport.fileno())  # what was read is progress too
            self._catch_up()
        if now_s - self._started_s > limits.request_s:
            self._end(f"no end of the answer within {limits.request_s:g} s", now_s)
        elif now_s - self._progress_s > limits.progress_s:
            self._end(f"no progress for {limits.progress_s:g} s", now_s)
        elif now_s - self._at_s > _SILENCE_S and self._reader is not None and self._reader.complete:
            self._end("hopeless", now_s)  # there is neither [DONE] nor an end of HTTP
        trial_s = acknowledgements.due_s(self._transport)
        return min(self._started_s + limits.request_s, self._progress_s + quiet_s, self._at_s + _SILENCE_S, trial_s)

    def _end(self, how: str, at_s: float) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            self.ended_s = at_s
            self._reactor.call_later(partial(self._wake, waiter, how))

    def _wake(self, waiter: Waiter, how: str) -> None:
        sender = self._sender
        waiter.switch(how)
        if sender is not None and sender[0] is waiter:  # nobody waits for it yet, nor for the rest of the request
            sender[1].throw(_Over)

    def _on_readable(self) -> None:
        try:
            data, at_s = self._transport.recv()
        except BlockingIOError:
            return
        except OSError:  # a reset, or TLS gone wrong
            self._reset(_now())
        else:
            self._take(data, at_s, _now(), max(self._drained_s, self._reactor.emptied_s))

    def _on_read(self, data: bytes | int, at_s: float, read_s: float, empty_s: float) -> None:
        """The lane has read what is none of its pieces, or an error."""
        self._catch_up()
        if isinstance(data, int):
            self._reset(read_s)
        else:
            self._take(data, at_s, read_s, empty_s)

    def _reset(self, at_s: float) -> None:
        """It cannot be read any more."""
        self._at_s = at_s
        self._lost("reset")

    def _take(self, data: bytes, at_s: float, read_s: float, empty_s: float) -> None:
        self._at_s = at_s
        if not data:
            self._lost("eof")
        elif self._reader is None and self._linger_until_s is None:
            self.close()  # an idle connection has nothing to say
        else:
            self.answered = True
            self._head_bytes += len(data)
            self._token_pieces = 0
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._lost("garbage")
            else:
                if self._head_bytes > _MAX_HEAD_BYTES:  # no body in all this: headers without end
                    self._lost("garbage")
                elif self._transport.ended:
                    self._lost("eof")
                elif self._linger_until_s is not None and self._whole:
                    self._linger_until_s = None
                    self._pool.lingering.discard(self)
                    self._settle()
            self._log_read(at_s, read_s, max(at_s - empty_s, 0.0))
            self._lay_lane(data)

    def _lay_lane(self, data: bytes) -> None:
        """Let the repeats of the last event be read by a lane, where there can be one.

        A lane reads whole chunks of HTTP, so these bytes, the last that were read, must have ended with one: their last
        line is not the header of the next, which would have been told. Where there is none, the lane that there is reads
        on, and knows nothing any longer.
        """
        lane, reader = self._lane, self._reader
        if lane is None or reader is None:
            return
        repeat = reader.repeat if self._between_chunks and data.endswith(b"\r\n") else None
        if repeat is not None and self._waiter is not None and self._token_s is not None:
            self._lay(*repeat.around, reader.most_repeats, self._token_s, self._patience(reader))
            reader.ahead = self._lane

    def _patience(self, reader: AnswerReader) -> int:
        """How many of the next pieces may be read late: not the last expected one, none where that holds somebody up."""
        in_time = self._lane is None or not self._lane.hasty
        if not (in_time and self._reactor.leisurely and self._pool.acknowledgements.harmless):
            return 0
        asked = reader.asked_tokens
        return reader.most_repeats if asked is None else max(asked * reader.choices - reader.tokens - 1, 0)

    def _lay(self, before: bytes, after: bytes, most: int, token_s: float, patience: int = 0) -> None:
        """Let a lane read the connection, in the place of the one that there is; without a `before` it knows nothing."""
        make, last = self._reactor.new_lane, self._lane
        assert make is not None
        since_s, drained_s = (self._drained_s, self._drained_s) if last is None else (last.since_s, last.drained_s)
        self._lane = make(before, after, most, since_s, token_s, drained_s, patience)
        self._reactor.lay(self._transport.fileno(), self._lane, knows=bool(before),
                          hurried=not before and self._pool.acknowledgements.undecided)  # fmt: skip

    def _catch_up(self) -> None:
        """Take over what the lane holds."""
        lane, reader = self._lane, self._reader
        if lane is not None and reader is not None and lane.held:
            times, body_bytes = lane.take()
            reader.take_repeats(array("d", times), body_bytes)
            self._at_s = self._progress_s = self._token_s = lane.token_s
            self._drained_s = lane.drained_s

    def _lift_lane(self) -> None:
        """Read on without it."""
        if self._lane is not None:
            self._catch_up()
            self._reactor.lift(self._transport.fileno())
            if self._transport.stamped is not None:
                self._transport.stamped.since_s = self._lane.since_s
            if self._reader is not None:
                self._reader.ahead = None
            self._lane = None

    def _log_read(self, at_s: float, read_s: float, unsure_s: float) -> None:
        """How late it was, and how sure the times of its tokens are."""
        if pieces := self._token_pieces:
            if self._token_s is None:
                self._reactor.reads.first(read_s - at_s, unsure_s, pieces)
                if self._pool.acknowledgements.begin(self._transport, pieces, _now(), at_s):
                    self._reactor.watch(self)
            else:
                self._reactor.reads.later(read_s - at_s, unsure_s, pieces, at_s - self._token_s)
            self._token_s = at_s
        self._drained_s = read_s

    def _lost(self, how: str) -> None:
        self._keep_alive = False
        if self._waiter is None:
            self.close()
            return
        if how == "eof" and self.answered and not self._framed and self._reader and self._reader.status is not None:
            how = "done"  # an answer without a length ends with its connection
        self._reactor.remove(self._transport.fileno())  # else it stays readable until the greenlet has its turn
        self._end(how, self._at_s)

    # what httptools calls

    def on_message_begin(self) -> None:
        """An answer begins; one without a request makes the connection unusable."""
        self._framed = self._between_chunks = False
        self._retry_after_s: float | None = None
        if self._reader is None:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header: what matters is whether the answer says where it ends, and when to come back."""
        lower = name.lower()
        if lower == b"retry-after":
            self._retry_after_s = retry_after_s(value)
        if lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
            self._framed = True

    def on_headers_complete(self) -> None:
        """The status is known."""
        status = self._parser.get_status_code()
        if status >= 200 and self._reader is not None:  # 1xx comes before the answer
            self._reader.headers(status, self._retry_after_s)

    def on_chunk_header(self) -> None:
        """A piece of the body begins."""
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        """It has ended."""
        self._between_chunks = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body, which came at `_at_s`."""
        reader = self._reader
        if reader is None:
            return
        self._head_bytes = 0
        if reader.feed(data, self._at_s):
            self._progress_s = self._at_s
            self._token_pieces += 1  # however many tokens it holds: they were sent together
        if reader.hopeless:
            self._end("hopeless", self._at_s)
        elif reader.done:
            self._end("done", self._at_s)

    def on_message_complete(self) -> None:
        """The answer is whole, as HTTP has it."""
        if self._linger_until_s is not None:
            self._whole = True
            self._keep_alive = self._parser.should_keep_alive()
        elif self._reader is not None and self._reader.status is not None:
            self._keep_alive = self._parser.should_keep_alive()
            self._lift_lane()
            self._reader = None
            self._end("done", self._at_s)
