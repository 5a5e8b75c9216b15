"""Client: one POST, one answer, read with a time stamp on every piece.

Connections are kept alive and reused, the newest first, and there is no cap on their number: a pool that fills up would
hold back requests that are due.
"""

from __future__ import annotations

import ssl
import time

import gevent

from fineserve_shapes.client.connection import Connection, Deadlines, Pool
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.target import Target
from fineserve_shapes.client.transport import ConnectError, connect
from fineserve_shapes.errors import InputError
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.text import shorten

_now = time.perf_counter


class Client:
    """POSTs to one server.

    headers: sent with every request, validated once.
    """

    def __init__(
        self,
        target: Target,
        reactor: Reactor,
        deadlines: Deadlines,
        headers: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.target = target
        self._reactor = reactor
        self._deadlines = deadlines
        self._context = (context or ssl.create_default_context()) if target.tls else None
        self._pool = Pool()
        self._headers = b"Host: %s\r\n" % target.authority.encode() + header_lines(headers or {})

    def post(self, path: str, body: bytes, reader: AnswerReader, headers: dict[str, str] | None = None) -> Result:
        """Send a body and read the answer; every way it can end comes back as a result, never as an exception.

        A connection that was reused and is lost before any byte of the answer is no failure of the server (it may close
        what is idle): the request goes out once more, on a fresh connection, and is marked as retried. The calling
        greenlet may be killed: the result is then `cancelled`.
        """
        request = b"POST %s HTTP/1.1\r\n%s%sContent-Length: %d\r\n\r\n%s" % (
            path.encode(),
            self._headers,
            header_lines(headers or {}),
            len(body),
            body,
        )
        reader.sent_s = sent_s = _now()
        reused = retried = False
        connection: Connection | None = None
        try:
            while True:
                found = None if retried else self._idle()
                reused = found is not None
                connection = found or self._connect()
                end = connection.exchange(request, reader, sent_s)
                if reused and end in ("eof", "reset") and not connection.answered:
                    connection.close()
                    retried = True
                    continue
                break
        except ConnectError as error:
            return reader.stop(Outcome.CONNECT_ERROR, shorten(str(error)), sent_s, _now(), retried=retried)
        except gevent.GreenletExit:
            text = "the run was stopped before the answer had ended"
            return reader.stop(Outcome.CANCELLED, text, sent_s, _now(), retried=retried, reused=reused)
        finally:
            if connection is not None:
                connection.release()
        end_s = connection.ended_s
        if end in ("done", "eof", "hopeless"):
            return reader.finish(sent_s, end_s, whole=end == "done", retried=retried, reused=reused)
        if end in ("reset", "garbage"):
            text = "the connection was reset" if end == "reset" else "the answer is not HTTP"
            return reader.stop(Outcome.STREAM_ERROR, text, sent_s, end_s, retried=retried, reused=reused)
        return reader.stop(Outcome.TIMEOUT, end, sent_s, end_s, retried=retried, reused=reused)

    def close(self) -> None:
        """Close the connections that serve no request."""
        for connection in [*self._pool.idle, *self._pool.lingering]:
            connection.close()

    def _idle(self) -> Connection | None:
        """The connection that became idle last and is still good."""
        while self._pool.idle:
            connection = self._pool.idle.popitem()[0]
            if connection.quiet():
                return connection
        return None

    def _connect(self) -> Connection:
        limits = self._deadlines
        transport = connect(self.target, self._context, min(limits.connect_s, limits.request_s))
        return Connection(transport, self._reactor, self._deadlines, self._pool)


def header_lines(headers: dict[str, str]) -> bytes:
    """Headers as bytes. Raises InputError, which does not repeat a value: it may be a key."""
    lines = []
    for name, value in headers.items():
        line = f"{name}: {value}"
        try:
            lines.append(line.encode("latin-1") + b"\r\n")
        except UnicodeEncodeError:
            line = "\n"
        if not line.isprintable():
            raise InputError(f"the header {name!r} holds characters that no header can hold")
    return b"".join(lines)
