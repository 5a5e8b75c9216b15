"""Servers that behave as badly as a test asks: each is one function that gets the connection.

They are greenlets of the test's own process, on loopback and a free port, and end with the test.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import ssl
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import gevent
from gevent import monkey
from gevent.hub import get_hub
from gevent.server import StreamServer

from fineserve_shapes.client.client import Client
from fineserve_shapes.client.connection import Deadlines
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.target import Target
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result

_Socket: type[socket.socket] = monkey.get_original("socket", "socket")
PATH = "/v1/completions"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"
MAX_TEST_S = 20


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection; the first does not block."""
    with _Socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = _Socket()
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def event(text: str = "word", finish: str | None = None) -> bytes:
    """One token, as a server-sent event."""
    reason = f'"{finish}"' if finish else "null"
    return f'data: {{"choices":[{{"index":0,"text":"{text}","finish_reason":{reason}}}]}}\n\n'.encode()


def events(tokens: int = 3) -> list[bytes]:
    """A whole answer of so many tokens."""
    return [*(event() for _ in range(tokens - 1)), event(finish="length"), DONE]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(tokens: int = 3) -> bytes:
    """A whole answer with chunked framing."""
    return HEAD + b"".join(map(chunk, events(tokens))) + END


def sized(status: str, body: bytes, *headers: str) -> bytes:
    """An answer with a length."""
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


@dataclass
class Request:
    """What a server read."""

    line: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """The server's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._read = b""

    def head(self) -> Request | None:
        """The next request without its body; None where the client has hung up."""
        while b"\r\n\r\n" not in self._read:
            if not (data := self.recv()):
                return None
            self._read += data
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        return Request(line, {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}, b"")

    def request(self) -> Request | None:
        """The next request, whole."""
        if (request := self.head()) is None:
            return None
        length = int(request.headers.get("content-length", 0))
        while len(self._read) < length:
            if not (data := self.recv()):
                return None
            self._read += data
        request.body, self._read = self._read[:length], self._read[length:]
        return request

    def recv(self) -> bytes:
        return self.sock.recv(65536)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """End the connection with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def gone(self) -> bool:
        """Wait until the client has hung up."""
        try:
            while self.recv():
                pass
        except OSError:
            pass
        return True


class TLSPeer(Peer):
    """The server's end of a TLS connection, which writes its records in pieces of a given size."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, piece: int = 2**14) -> None:
        super().__init__(sock)
        self._piece = piece
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._until(self._tls.do_handshake)

    def recv(self) -> bytes:
        return self._until(lambda: self._tls.read(65536)) or b""

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self.flush()

    def send_and_say_goodbye(self, data: bytes) -> None:
        """Data and the end of TLS in one piece; the TCP connection stays."""
        if data:
            self._tls.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self.flush()

    def flush(self) -> None:
        data = self._outgoing.read()
        for start in range(0, len(data), self._piece):
            self.sock.sendall(data[start : start + self._piece])
            if self._piece < 100:
                gevent.sleep(0)  # the client reads in between

    def _until(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.flush()
                if not (data := self.sock.recv(65536)):
                    return None
                self._incoming.write(data)
            finally:
                self.flush()


@dataclass
class Server:
    """A server that was started, and what it saw."""

    url: str
    port: int
    connections: int = 0
    requests: list[Request] = field(default_factory=list)


class Lab:
    """Servers, a reactor and clients for one test; it ends them all, and fails if the hub met an error."""

    def __init__(self) -> None:
        self.hub_errors: list[str] = []
        self._servers: list[StreamServer] = []
        self._clients: list[Client] = []
        self._handlers: list[gevent.Greenlet] = []
        self._guard = gevent.Timeout(MAX_TEST_S, AssertionError(f"not over within {MAX_TEST_S} s"))

    def __enter__(self) -> Lab:
        get_hub().print_exception = lambda context, *error: self.hub_errors.append(
            "".join(traceback.format_exception(*error))
        )
        self.reactor = Reactor(time.perf_counter)
        self._guard.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.close()
        for client in self._clients:
            client.close()
        self.reactor.close()
        for server in self._servers:
            server.stop(timeout=1)
        gevent.killall(self._handlers, timeout=5)
        gevent.sleep(0)  # the reactor's greenlet ends
        del get_hub().print_exception
        if kind is None:
            assert self.hub_errors == [], self.hub_errors

    def serve(self, handle: Callable[[Peer], object], host: str = "127.0.0.1") -> Server:
        """Start a server; `handle` gets each connection, which closes when it returns."""

        def on_connection(sock: socket.socket, address: object) -> None:
            server.connections += 1
            self._handlers.append(gevent.getcurrent())
            with contextlib.suppress(OSError):
                handle(Peer(sock))

        listening = StreamServer((host, 0), on_connection)
        listening.start()
        self._servers.append(listening)
        name = f"[{host}]" if ":" in host else host
        server = Server(f"http://{name}:{listening.server_port}", listening.server_port)
        return server

    def answer(self, *answers: bytes) -> Server:
        """Start a server that gives these answers, the last of them for ever, and keeps the connection."""
        count = 0

        def handle(peer: Peer) -> None:
            nonlocal count
            while (request := peer.request()) is not None:
                server.requests.append(request)
                peer.send(answers[min(count, len(answers) - 1)])
                count += 1

        server = self.serve(handle)
        return server

    def client(
        self,
        url: str,
        *,
        connect_s: float = 5,
        progress_s: float = 5,
        request_s: float = 10,
        headers: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Client:
        deadlines = Deadlines(connect_s, progress_s, request_s)
        client = Client(Target(url), self.reactor, deadlines, headers, context)
        self._clients.append(client)
        return client


def post(client: Client, body: bytes = b"{}", *, asked: int = 3, request_id: str = "run-0") -> Result:
    """Send one request."""
    return client.post(PATH, body, AnswerReader(asked), {"X-Request-Id": request_id})


def failed(result: Result, outcome: str, text: str) -> None:
    """A result that failed in this way, with one line that says this."""
    assert (result.outcome, text in str(result.error)) == (outcome, True), result
    assert result.error is not None
    assert len(result.error) <= 300
    assert result.error.isprintable()


def descriptors() -> int:
    """How many descriptors this process has open, once the hub has its own and no garbage holds any."""
    gevent.sleep(0.001)
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def settled(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether it comes true in time."""
    until_s = time.perf_counter() + within_s
    while not condition():
        if time.perf_counter() > until_s:
            return False
        gevent.sleep(0.005)
    return True


def free_port() -> int:
    """A port on which nobody listens (just now)."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a port whose queue of connections is full: the next ones get no answer at all."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex(listening.getsockname()) in (0, errno.EINPROGRESS)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
