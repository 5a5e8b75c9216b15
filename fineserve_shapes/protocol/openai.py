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

MAX_ERROR_CHARS = 300
DONE = b"[DONE]"


@dataclass(slots=True)
class Usage:
    """Token counts by the server; None where it gives none."""

    input_tokens: int | None
    output_tokens: int | None


@dataclass(slots=True)
class Delta:
    """What one event adds to an answer.

    carries_token: generated content of any kind, reasoning and tool calls included, or empty text that is a token.
    visible: content that a reader sees (no reasoning).
    tokens: how many, where the event itself says so (token ids); else None.
    choices: (index, finish_reason or None) of each choice in the event.
    """

    carries_token: bool = False
    visible: bool = False
    tokens: int | None = None
    choices: tuple[tuple[int, str | None], ...] = ()
    usage: Usage | None = None
    error: str | None = None
    server_metrics: Mapping[str, Any] | None = None


def read_event(payload: bytes) -> Delta:
    """The meaning of one event of a stream; anything that is no such event comes back as an error in words."""
    event = _load(payload)
    if not isinstance(event, dict):
        return Delta(error=shorten(f"not an OpenAI event: {payload[:200]!r}"))
    if event.get("error") is not None or event.get("object") == "error":
        return Delta(error=error_text(event))
    choices = event.get("choices")
    if not isinstance(choices, list):
        detail = event.get("detail")
        return Delta(error=error_text(event) if detail is not None else None, usage=_usage(event.get("usage")))
    delta = Delta()
    seen = []
    for choice in choices:
        if not isinstance(choice, dict):
            return Delta(error=shorten(f"not a choice: {choice!r}"))
        finish = choice.get("finish_reason")
        index = choice.get("index", 0)
        seen.append((index if type(index) is int else 0, None if finish is None else str(finish)))
        _read_choice(choice, finish, delta)
    delta.choices = tuple(seen)
    usage = event.get("usage")
    if usage is not None:
        delta.usage = _usage(usage)
    metrics = event.get("metrics")
    if isinstance(metrics, dict):
        delta.server_metrics = metrics
    return delta


def _read_choice(choice: dict[str, Any], finish: object, delta: Delta) -> None:
    part = choice.get("delta")
    if part is None:
        part = choice.get("message")  # an answer that was not streamed
    token_ids = choice.get("token_ids")
    if isinstance(part, dict):
        content = bool(
            part.get("content") or part.get("tool_calls") or part.get("refusal") or part.get("function_call")
        )
        hidden = bool(part.get("reasoning_content") or part.get("reasoning"))
        # empty content is a token where it opens nothing (role) and closes nothing (finish_reason)
        empty = part.get("content") == "" and "role" not in part and finish is None
    else:
        text = choice.get("text")
        content, hidden, empty = bool(text), False, text == "" and finish is None
    if isinstance(token_ids, list):
        delta.tokens = (delta.tokens or 0) + len(token_ids)
        empty = len(token_ids) > 0
    delta.carries_token |= content or hidden or empty
    delta.visible |= content


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


def shorten(text: str, limit: int = MAX_ERROR_CHARS) -> str:
    """One line of at most so many characters, without control characters."""
    line = " ".join(text[: 4 * limit].split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _load(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        pass
    try:  # the tolerant reader takes NaN, lone surrogates and broken UTF-8, which some servers send
        return json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    return Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
