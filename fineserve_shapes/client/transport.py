"""Sockets without a greenlet of their own: connect (in a greenlet), then non-blocking bytes, plain or TLS."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent.socket
from gevent import monkey

from fineserve_shapes.client.receivestamps import READ_BYTES, StampedSocket
from fineserve_shapes.client.target import Target

_Socket: type[socket.socket] = monkey.get_original("socket", "socket")
_getaddrinfo = monkey.get_original("socket", "getaddrinfo")


class ConnectError(Exception):
    """No connection: refused, unreachable, no such name, no TLS, or not in time."""


class Transport(Protocol):
    """A connected, non-blocking byte stream.

    ended: no more will come, although the socket may not show it: with the last bytes came word that they are the last.
    stamped: the socket, where its bytes are the stream's as they are.
    """

    ended: bool

    @property
    def stamped(self) -> StampedSocket | None: ...

    def fileno(self) -> int: ...

    def recv(self) -> tuple[bytes, float]:
        """Bytes that are there, and when they came (perf_counter); b"" at the end; BlockingIOError where there are none."""

    def readable(self) -> bool:
        """Whether something came, the end of the connection included."""

    def send_all(self, data: bytes, timeout_s: float) -> None:
        """Send all, waiting in the calling greenlet; OSError when that fails (TimeoutError: in time)."""

    def acknowledge_late(self) -> None:
        """See `acknowledgements`."""

    def acknowledges_late(self) -> bool:
        """See `acknowledgements`."""

    def close(self) -> None: ...


class PlainTransport:
    """TCP."""

    ended = False  # the socket shows it

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.stamped = StampedSocket(sock)
        self.recv = self.stamped.recv
        self.fileno = sock.fileno
        self.close = sock.close

    def readable(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass  # which the next read will say as well
        return True

    def send_all(self, data: bytes, timeout_s: float) -> None:
        now_s = time.perf_counter()
        until_s = now_s + timeout_s
        self.stamped.since_s = now_s
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                _wait_writable(self._sock, until_s)

    def acknowledge_late(self) -> None:
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def acknowledges_late(self) -> bool:
        return not self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)


class TLSTransport:
    """TLS over TCP, by memory buffers: the socket stays non-blocking and gevent out of the way."""

    stamped = None

    def __init__(self, plain: PlainTransport, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.ended = False
        self.fileno = plain.fileno
        self.readable = plain.readable
        self.acknowledge_late = plain.acknowledge_late
        self.acknowledges_late = plain.acknowledges_late
        self.close = plain.close

    def handshake(self, timeout_s: float) -> None:
        """Agree on keys; ssl.SSLError or OSError when that fails."""
        until_s = time.perf_counter() + timeout_s
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(until_s)
            else:
                self._flush(until_s)
                return
            _wait(self.fileno(), gevent.socket.wait_read, until_s)
            try:
                data, _ = self._plain.recv()
            except BlockingIOError:
                continue
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection in the TLS handshake")
            self._incoming.write(data)

    def recv(self) -> tuple[bytes, float]:
        data, at_s = self._plain.recv()
        if not data:
            return b"", at_s
        self._incoming.write(data)
        parts: list[bytes] = []
        while True:
            try:
                part = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            if not part:  # the end of TLS; the server may well keep the TCP connection until it is answered
                self.ended = True
                return b"".join(parts), at_s
            parts.append(part)
        if not parts:
            raise BlockingIOError(errno.EAGAIN, "half a TLS record")
        return b"".join(parts), at_s

    def send_all(self, data: bytes, timeout_s: float) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush(time.perf_counter() + timeout_s)

    def _flush(self, until_s: float) -> None:
        if self._outgoing.pending:
            self._plain.send_all(self._outgoing.read(), until_s - time.perf_counter())


def connect(target: Target, context: ssl.SSLContext | None, timeout_s: float) -> Transport:
    """Connect in the calling greenlet. Raises ConnectError with one line that says why."""
    until_s = time.perf_counter() + timeout_s
    try:
        addresses = _addresses(target, timeout_s)
    except TimeoutError:
        raise ConnectError(f"the name {target.host} was not found within {timeout_s:g} s") from None
    except OSError as error:
        raise ConnectError(f"the name {target.host} cannot be found: {error.strerror or error}") from None
    problem = "no address"
    for family, kind, protocol, _, address in addresses:
        sock: socket.socket | None = None
        try:
            sock = _Socket(family, kind, protocol)  # fails where descriptors have run out
            return _open(sock, address, target, context, until_s)
        except TimeoutError:
            problem = f"no connection to {target.authority} within {timeout_s:g} s"
        except ssl.SSLError as error:
            problem = f"TLS with {target.authority} failed: {error.reason or error}"
            if isinstance(error, ssl.SSLCertVerificationError):
                problem = f"the certificate of {target.authority} is not valid: {error.verify_message}"
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            problem = f"no connection to {target.authority}: {reason.lower()}"
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        if sock is not None:
            sock.close()
    raise ConnectError(problem)


def _addresses(target: Target, timeout_s: float) -> list[Any]:
    try:  # an address in figures needs no thread, which costs more than the rest of connecting
        return _getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        with gevent.Timeout(timeout_s, TimeoutError()):
            return gevent.socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)


def _open(
    sock: socket.socket, address: tuple[str, int], target: Target, context: ssl.SSLContext | None, until_s: float
) -> Transport:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        _wait_writable(sock, until_s)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    plain = PlainTransport(sock)
    if context is None:
        return plain
    tls = TLSTransport(plain, context, target.host)
    tls.handshake(until_s - time.perf_counter())
    return tls


def _wait_writable(sock: socket.socket, until_s: float) -> None:
    _wait(sock.fileno(), gevent.socket.wait_write, until_s)


def _wait(fd: int, wait: Callable[..., None], until_s: float) -> None:
    left_s = until_s - time.perf_counter()
    if left_s <= 0:
        raise TimeoutError
    wait(fd, timeout=left_s, timeout_exc=TimeoutError())
