"""One-shot: a single request beside the run, on a connection of its own. Nothing is measured by it."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import gevent

from fineserve_shapes.client.client import header_lines
from fineserve_shapes.client.target import Target


@contextmanager
def oneshot(
    target: Target,
    context: ssl.SSLContext | None,
    path: str,
    *,
    headers: dict[str, str],
    body: bytes | None = None,
    timeout_s: float,
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET, or to a POST of a body. Redirects are not followed.

    timeout_s: of it all, the reading of the answer within the block included. Raises OSError (TimeoutError and
    ssl.SSLError are some) or HTTPException.
    """
    header_lines(headers)  # refuses what http.client would refuse with the value, a key maybe, in its message
    connection: http.client.HTTPConnection
    if target.tls:
        connection = http.client.HTTPSConnection(target.host, target.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
    try:
        with gevent.Timeout(
            timeout_s, TimeoutError(f"no answer within {timeout_s:g} s")
        ):  # the socket's is of each byte
            connection.request("GET" if body is None else "POST", path, body, headers)
            yield connection.getresponse()
    finally:
        connection.close()
