"""One HTTP/1.1 connection: bytes to requests, answers to bytes, keep-alive. What a request means is the server's.

Requests on one connection are answered one after the other; further ones wait. A client that closes, or does not read
what is written, loses its answer.
"""

import asyncio
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

import httptools

from fineserve_shapes.simulator.idleness import Idleness

MAX_HEAD_BYTES = 64 * 1024
MAX_UNREAD_BYTES = 8 * 1024 * 1024  # what a client may leave unread before it is dropped
MAX_WAITING_REQUESTS = 64
JSON = "application/json"


class HttpRequest(NamedTuple):
    """A complete request. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    received_s: float
    http_1_0: bool


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long a connection lives, and how much it takes."""

    keep_alive_s: float
    max_requests: int | None
    max_request_bytes: int


class DateHeader:
    """The `date` of answers, rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def text(self) -> str:
        now = int(time.time())
        if now != self._second:
            self._second, self._text = now, formatdate(now, usegmt=True)
        return self._text


_date = DateHeader()


@cache
def _status_line(status: int, http_1_0: bool) -> str:
    return f"HTTP/1.{0 if http_1_0 else 1} {status} {HTTPStatus(status).phrase}\r\n"


@lru_cache(maxsize=256)
def _path(url: bytes) -> str:
    try:
        path = httptools.parse_url(url).path or b"/"
    except httptools.HttpParserInvalidURLError:
        path = url
    return path.decode("latin-1")


_received = memoryview(bytearray(64 * 1024))
"""What a socket gave, until it is parsed: of all connections, since each parses before the next one reads.

asyncio's own buffers are four times as large, and fetched from the kernel and given back for every request.
"""


class ServedConnection(asyncio.BufferedProtocol):
    """Parses requests and hands each to `handle`, one at a time; `done`, `close` or `reset` ends its answer."""

    __slots__ = (
        "_body",
        "_closed",
        "_connections",
        "_current",
        "_handle",
        "_head_bytes",
        "_headers",
        "_hung",
        "_idleness",
        "_in_head",
        "_keep",
        "_limits",
        "_loop",
        "_parser",
        "_received_s",
        "_served",
        "_socket",
        "_transport",
        "_url",
        "_waiting",
        "fd",
        "idle_since_s",
        "on_abort",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handle: Callable[["ServedConnection", HttpRequest], None],
        connections: set["ServedConnection"],
        idleness: Idleness,
        limits: ConnectionLimits,
    ) -> None:
        self.on_abort: Callable[[], None] | None = None  # set while an answer is in progress
        self._loop = loop
        self._handle = handle
        self._connections = connections
        self._idleness = idleness
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self.fd = -1  # to write to directly; -1 while the transport holds bytes that must go first, or is closing
        self._in_head = True
        self._head_bytes = 0
        self._closed = False
        self._current: HttpRequest | None = None
        self._keep = True
        self._hung = False
        self._served = 0
        self._waiting: deque[tuple[HttpRequest, bool]] = deque()
        self.idle_since_s: float | None = None
        self._received_s = 0.0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=MAX_UNREAD_BYTES)
        self._socket: Any = transport.get_extra_info("socket")
        self.fd = self._socket.fileno()
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._shut()
        self._connections.discard(self)
        self.idle_since_s = None
        self._waiting.clear()
        del self._parser  # it refers to this object: without the cycle, no collector is needed
        self._abort()

    def pause_writing(self) -> None:
        # the client does not read: the simulator's memory is not its buffer
        self.fd = -1
        self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return _received

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(_received[:nbytes])
        self._received_s = time.perf_counter()
        self.idle_since_s = None
        if self._closed:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "Upgrades are not supported.")
        except httptools.HttpParserError:
            self._refuse(400, "Invalid HTTP request received.")
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"Headers must not exceed {MAX_HEAD_BYTES} bytes.")

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_head = False
        length = self._headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.max_request_bytes:
            self._refuse(413, f"A request must not exceed {self._limits.max_request_bytes} bytes.")
        elif self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if not self._closed:
            self._body += body
            if len(self._body) > self._limits.max_request_bytes:
                self._refuse(413, f"A request must not exceed {self._limits.max_request_bytes} bytes.")

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        if self._closed:
            return
        request = HttpRequest(
            method=self._parser.get_method().decode("ascii"),
            path=_path(self._url),
            headers=self._headers,
            body=bytes(self._body),
            received_s=self._received_s,
            http_1_0=self._parser.get_http_version() == "1.0",
        )
        keep = self._parser.should_keep_alive()
        if self._current is None:
            self._serve(request, keep)
        elif len(self._waiting) < MAX_WAITING_REQUESTS:
            self._waiting.append((request, keep))
        else:
            self._transport.abort()

    # for the server and its answers

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes, and the rest when it can.

        Past the transport, whose share of a write was a tenth of the time at 40,000 chunks/s.
        """
        try:
            sent = os.write(self.fd, data)
        except OSError:
            # it takes nothing now, or is gone, or is not ours to write to: the transport knows what to do
            sent = 0
        if sent != len(data):
            self.write_rest(data[sent:])

    def write_rest(self, data: bytes) -> None:
        """Send what could not be written to `fd`."""
        self._transport.write(data)
        waits = self._closed or self._transport.is_closing() or self._transport.get_write_buffer_size()
        self.fd = -1 if waits else self._socket.fileno()

    def head(self, status: int, headers: Mapping[str, str], *, http_1_0: bool = False) -> bytes:
        """Status line and headers of an answer to the current request."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not self._keep and "connection" not in headers:
            lines += "connection: close\r\n"
        opening = f"{_status_line(status, http_1_0)}date: {_date.text()}\r\nserver: fineserve-simulator\r\n"
        return f"{opening}{lines}\r\n".encode("latin-1", "replace")

    def respond(
        self, status: int, body: bytes, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer the current request with a whole body, without ending it (see `done`)."""
        fields = {"content-length": str(len(body))}
        if body:
            fields["content-type"] = content_type
        self.write(self.head(status, fields | dict(headers or {})) + body)

    def done(self) -> None:
        """The answer is complete: serve the next request, wait for one, or close."""
        self.on_abort = None
        if self._hung:
            return
        self._current = None
        if self._closed:
            return
        if not self._keep:
            self.close()
        elif self._waiting:
            # not at once: a client that pipelines must not hold up the others
            self._loop.call_soon(self._serve_waiting)
        else:
            self._idleness.begin(self)

    def hang(self) -> None:
        """Once the answer is complete, neither close nor serve another request."""
        self._hung = True

    def close(self) -> None:
        """Close after what was written."""
        self._shut()
        self._transport.close()

    def drop(self) -> None:
        """Close whatever is in progress."""
        self.close()
        self._abort()

    def reset(self) -> None:
        """Close with a TCP reset."""
        self._shut()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _shut(self) -> None:
        # the number of the descriptor may soon be another's
        self._closed = True
        self.fd = -1

    def _serve(self, request: HttpRequest, keep: bool) -> None:
        self._current = request
        self._served += 1
        self._keep = keep and self._served != self._limits.max_requests
        self._handle(self, request)

    def _serve_waiting(self) -> None:
        if self._waiting and not self._closed and self._current is None:
            self._serve(*self._waiting.popleft())

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and close. An answer in progress is lost: nothing can be said in its middle."""
        if self._closed:
            return
        if self._current is None:
            self._keep = False
            self.respond(status, message.encode(), "text/plain; charset=utf-8")
        self.drop()

    def _abort(self) -> None:
        on_abort, self.on_abort = self.on_abort, None
        if on_abort is not None:
            on_abort()
