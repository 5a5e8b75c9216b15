"""The OpenAI dialects as servers really speak them: an event becomes a delta.

What may live here: the JSON of the answers of `/v1/completions` and `/v1/chat/completions`. Pure functions; no framing,
no clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fineserve_shapes.protocol.endings import ending
from fineserve_shapes.text import shorten

DONE = b"[DONE]"
_MOST = 2**31  # more than that no count is
_DECODER = json.JSONDecoder()


@dataclass(slots=True)
class Usage:
    """Token counts by the server; None where it gives none."""

    input_tokens: int | None
    output_tokens: int | None


@dataclass(slots=True)
class Delta:
    """What one event adds to an answer.

    contents: choices with generated content of any kind: text, reasoning, a tool call, a refusal, or token ids.
    visible: content that a reader sees (no reasoning).
    empties: choices whose text is there and empty, which neither open (role) nor close (finish_reason) the answer: some
    servers send half a character so, others a sign of life.
    closings: choices that close without content. bare: choices with none of all that.
    tokens: how many, where the event itself says so (token ids); else None.
    choices: (index, finish_reason or None) of each choice in the event.
    unreadable: it is no JSON, which `error` says as well.
    """

    contents: int = 0
    visible: bool = False
    empties: int = 0
    closings: int = 0
    bare: int = 0
    tokens: int | None = None
    choices: tuple[tuple[int, str | None], ...] = ()
    usage: Usage | None = None
    error: str | None = None
    unreadable: bool = False
    server_metrics: Mapping[str, Any] | None = None


def read_event(payload: bytes) -> Delta:
    """The meaning of one event of a stream; anything that is no such event comes back as an error in words."""
    event = _load(payload)
    if event is None:
        return Delta(error=no_event(payload), unreadable=True)
    if isinstance(event, list) and len(event) == 1:
        event = event[0]
    if not isinstance(event, dict):
        return Delta(error=no_event(payload))
    if event.get("error") is not None or event.get("object") == "error":
        return Delta(error=error_text(event))
    choices = event.get("choices")
    usage = event.get("usage")
    if not isinstance(choices, list):
        says = any(event.get(key) is not None for key in ("detail", "message", "msg"))
        if says and not isinstance(usage, dict):
            return Delta(error=error_text(event))
        return Delta(usage=read_usage(usage))
    delta = Delta()
    seen = []
    for choice in choices:
        if not isinstance(choice, dict):
            return Delta(error=shorten(f"not a choice: {choice!r}"))
        finish = choice.get("finish_reason")
        if finish is not None:
            finish = ending(finish)
        index = choice.get("index", 0)
        seen.append((index if type(index) is int and 0 <= index < _MOST else 0, finish))
        _read_choice(choice, finish, delta)
    delta.choices = tuple(seen)
    if usage is not None:
        delta.usage = read_usage(usage)
    metrics = event.get("metrics")
    if isinstance(metrics, dict):
        delta.server_metrics = metrics
    return delta


_VISIBLE = ("content", "tool_calls", "refusal", "function_call", "audio")
_HIDDEN = ("reasoning_content", "reasoning", "reasoning_details", "thinking")


def _read_choice(choice: dict[str, Any], finish: str | None, delta: Delta) -> None:
    part = choice.get("delta")
    if part is None:
        part = choice.get("message")  # an answer that was not streamed
    if isinstance(part, dict):
        visible = any(part.get(name) for name in _VISIBLE)
        content = visible or any(part.get(name) for name in _HIDDEN)
        empty = "role" not in part and any(part.get(name) == "" for name in (*_VISIBLE, *_HIDDEN))
    else:
        text = choice.get("text")
        content = visible = bool(text)
        empty = text == ""
    token_ids = choice.get("token_ids")
    if isinstance(token_ids, list):
        if token_ids:
            content = True
            delta.tokens = (delta.tokens or 0) + len(token_ids)
        empty = False  # the server says itself that it is none
    if content:
        delta.contents += 1
        delta.visible |= visible
    elif finish is not None:
        delta.closings += 1
    elif empty:
        delta.empties += 1
    else:
        delta.bare += 1


def merged_events(payload: bytes) -> list[bytes] | None:
    """The events in a payload that is not one JSON value: those that a proxy put together without the empty line between
    them, or one that it broke over two lines. None where it is neither.
    """
    joined = payload.replace(b"\n", b"")
    if b"\n" in payload and _load(joined) is not None:
        return [joined]
    text = payload.decode("utf-8", "surrogateescape")
    found, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text.startswith("data:", at):
            at += 5
        elif text.startswith("[DONE]", at):
            found.append(DONE)
            at += 6
        else:
            try:
                _, end = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError):
                return None
            found.append(text[at:end].encode("utf-8", "surrogateescape"))
            at = end
    return found if len(found) > 1 else None


def is_done(payload: bytes) -> bool:
    """Whether an event is the last: `[DONE]`, with blanks around it or in quotes too."""
    return payload == DONE or (len(payload) < 64 and payload.strip(b" \t\r\n\"'").upper() == DONE)


def is_json(payload: bytes) -> bool:
    """Whether a payload is a JSON value."""
    return _load(payload) is not None


def no_event(payload: bytes) -> str:
    """What there is to say of a payload that is no event."""
    return shorten(f"not an OpenAI event: {payload[:200]!r}")


def read_answer(body: bytes) -> Delta:
    """The meaning of a whole answer that was not streamed (or of an error sent as one)."""
    if not body.strip():
        return Delta(error="an empty body")
    return read_event(body)


def error_text(body: object) -> str:
    """A server's error in one bounded line, from any of the forms that servers use.

    body: the decoded JSON, or the text where it is none.
    """
    found = body
    for key in ("error", "detail", "message", "msg"):
        while isinstance(found, dict) and found.get(key):
            found = found[key]
        if isinstance(found, list) and found:
            found = found[0]
    if isinstance(found, str):
        return shorten(found)
    try:
        return shorten(json.dumps(found, default=str))
    except RecursionError:
        return "an error nested too deeply to be read"


def http_error_text(status: int, body: bytes) -> str:
    """An HTTP error in one bounded line: the status and what the body says."""
    decoded = _load(body)
    text = error_text(decoded) if decoded is not None else shorten(body.decode("utf-8", "replace"))
    return f"HTTP {status}: {text}" if text else f"HTTP {status}"


def _load(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        pass
    try:  # the tolerant reader takes NaN, lone surrogates and broken UTF-8, which some servers send
        return json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def read_usage(usage: object) -> Usage | None:
    """The token counts in a usage; None where it is no such thing."""
    if not isinstance(usage, dict):
        return None
    return Usage(
        _count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        _count(usage.get("completion_tokens", usage.get("output_tokens"))),
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST else None
