"""Looks at servers of tests: the list of models, and one real request, from a thread."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from servers import (
    Lab,
    Peer,
    Request,
    sized,
)

from fineserve_shapes.client.preflight import ServedModel, Server, ask, find_model
from fineserve_shapes.client.target import Endpoints, Target
from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.answer import AnswerReader

PATH = "/v1/chat/completions?api-version=1"
BODY = b'{"model":"tiny","messages":[],"max_tokens":1,"stream":true,"stream_options":{},"ignore_eos":true}'
TOKENS = b'{"model":"tiny","prompt":[5,6],"max_completion_tokens":1}'


def server_at(url: str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None) -> Server:
    return Server(Endpoints(Target(url)), context, headers or {})


def in_thread(work: Callable[[], Any]) -> Any:
    """Preflight in a thread: http.client blocks where gevent has not patched it, and the servers are greenlets here.

    Its time-outs give the thread a hub, which ends with the work: the pool would keep it, and its descriptors, for some
    seconds, and they would be missing when another test counts its own.
    """

    def attempt() -> Any:
        try:
            return work()
        except Exception as error:
            return error
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    found = gevent.get_hub().threadpool.apply(attempt)
    if isinstance(found, Exception):
        raise found
    return found


def look(
    url: str,
    wanted: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 2.0,
    context: ssl.SSLContext | None = None,
) -> ServedModel:
    """The list of models, and the choice."""
    found: ServedModel = in_thread(lambda: find_model(server_at(url, headers, context), wanted, timeout_s))
    return found


def refusal(url: str, wanted: str | None = None, **how: Any) -> str:
    with pytest.raises(InputError) as refused:
        look(url, wanted, **how)
    text = str(refused.value)
    assert "\n" not in text
    return text


def listing(*names: str, **fields: Any) -> bytes:
    return sized("200 OK", json.dumps({"object": "list", "data": [{"id": name, **fields} for name in names]}).encode())


def answering(lab: Lab, read: Callable[[Peer], Request | None], answer: bytes) -> str:
    """The URL of a server that reads so, and answers."""

    def handle(peer: Peer) -> None:
        if (request := read(peer)) is not None:
            server.requests.append(request)
            peer.send(answer)

    server = lab.serve(handle)
    lab.seen = server.requests  # type: ignore[attr-defined]
    return server.url


def gives(lab: Lab, answer: bytes) -> str:
    """The URL of a server that answers a GET."""
    return answering(lab, Peer.head, answer)


def asks(
    url: str, body: bytes = BODY, *, listed: str | None = None, timeout_s: float = 2.0, context: Any = None
) -> str | None:
    """What comes of one real request: None, or the one line."""
    server = server_at(url, {"X-Team": "a"}, context)
    model = ServedModel("tiny", listed=listed)
    try:
        in_thread(lambda: ask(server, PATH, body, AnswerReader(1), model, timeout_s, {"X-Request-Id": "preflight-1"}))
    except InputError as error:
        text = str(error)
        assert "\n" not in text
        assert "--skip-preflight starts without this look" in text or "TLS" in text or "certificate" in text
        return text
    return None


def says(lab: Lab, answer: bytes) -> str:
    """The URL of a server that answers a POST."""
    return answering(lab, Peer.request, answer)


def refuses(lab: Lab, status: str, body: object, *headers: str) -> str:
    return says(lab, sized(status, json.dumps(body).encode(), *headers))
