"""Answers in pieces over a connection, for tests that hold one way of reading them to another."""

from __future__ import annotations

import json
import socket
from dataclasses import fields
from typing import Any

import numpy as np
from gevent import monkey
from gevent.event import Event
from gevent.hub import get_hub
from hypothesis import strategies as st
from servers import DONE, event

from fineserve_shapes.client.connection import Connection
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result


def drain(reactor: Reactor) -> None:
    """In the hub, where alone a greenlet can be woken; all of it, however long a busy machine takes."""
    done = Event()

    def work() -> None:
        while reactor._drain():
            pass
        done.set()

    get_hub().loop.run_callback(work)
    done.wait()


def select_readable(sock: socket.socket, wait_s: float) -> bool:
    return sock.fileno() >= 0 and bool(monkey.get_original("select", "select")([sock], [], [], wait_s)[0])


def what_came(connection: Connection, reader: AnswerReader, reactor: Reactor, waiting: Any) -> tuple[Result, str]:
    """The result of an answer of which no more will be sent, and how it ended."""
    drain(reactor)
    if waiting.ready():
        end = waiting.value
    else:
        waiting.kill()
        end = "killed"
    assert reader.ahead is None
    return reader.finish(0.0, connection.ended_s, whole=end == "done"), end


def assert_same_but_for_times(one: Result, other: Result) -> None:
    """Of times there are as many, and they never go back."""
    for field in fields(Result):
        if not field.name.endswith("_s"):
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    times_s = one.chunk_times_s
    assert len(times_s) == len(other.chunk_times_s)
    assert (np.diff(times_s) >= 0).all()


texts = st.one_of(
    st.sampled_from([" word", "é", "\u2028", '"', "\\", "\n", "", "a" * 300, '","finish_reason":"stop","x":"']),
    st.text(max_size=5),
)


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """The chunks of an answer: mostly events of one form, with others between them."""
    found = []
    ascii_only = draw(st.booleans())
    for text in draw(st.lists(texts, min_size=1, max_size=12)):
        said = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        kind = draw(st.integers(0, 25))
        if kind == 0:
            found.append(b": a comment\n\n")
        elif kind == 1:
            found.append(event(said) + event(said))
        elif kind == 2:
            found.append(event(said).replace(b"null", b'"length"'))
        elif kind == 3:
            found.append(event(said).replace(b"}]", b'}],"usage":{"completion_tokens":3}'))
        elif kind == 4:
            found.append(b'data: {"error":{"message":"no"}}\n\n')
        elif kind == 5:
            found.append(event(said)[:-1])
        elif kind == 6:
            found.append(b"\n")
        else:
            found.append(event(said))
    return [*found, draw(st.sampled_from([event(finish="length"), DONE, event(finish="length") + DONE]))]
