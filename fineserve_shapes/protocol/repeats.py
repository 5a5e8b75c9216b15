"""Repeats: events that equal one already understood, but for the text in them.

What may live here: the recognition of such events by their bytes. What an event means is `openai.read_event`'s to say;
nothing here decides it anew.

Why it is exact. A JSON text in which one value is replaced by another stays JSON, and means the same but for that
value. So an event that was understood is cut around its text (and around its usage, where that runs along), and the
cut is tried with a text of our own: if it shows up as the content of the choice, all bytes around it are known to say
nothing else. Of the text in later events only one thing matters, that there is some, and that it is one JSON string.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

import orjson

from fineserve_shapes.protocol.openai import Delta, Usage, read_usage

_MOST_BYTES = 2**16  # of a text, and of an event to learn from: what is larger is no token
_LESSONS_IN_VAIN = 3
_MOST_USAGE_BYTES = 500  # that it nests less deeply than any reader of JSON can follow
_PLAIN_TEXT = re.compile(rb'[^\x00-\x1f"\\]{1,%d}' % _MOST_BYTES).fullmatch
_TEXT = re.compile(rb'"(text|content|reasoning_content|reasoning)"[ \t]*:[ \t]*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_USAGE = re.compile(rb'"usage"[ \t]*:[ \t]*')
_DECODER = json.JSONDecoder()
_SAMPLE, _SAMPLE_JSON = "?", b"?"
_SAMPLE_USAGE, _SAMPLE_USAGE_JSON = {"completion_tokens": 17}, b'{"completion_tokens":17}'


class Repeat(Protocol):
    """What tells the repeats of one event.

    choice: the number of the choice in all of them. usage: that of the repeat told last, None where they have none.
    """

    choice: int
    usage: Usage | None

    def is_told(self, data: bytes) -> bool:
        """Whether these bytes are a repeat; where not, what they are is to be found the plain way."""

    def within(self, before: bytes, after: bytes) -> Repeat:
        """The same for events that come with these bytes around them."""


class Ahead(Protocol):
    """Repeats that were told apart by somebody else."""

    @property
    def held(self) -> int:
        """How many they are."""


class TextRepeat:
    """Events that are equal but for their text."""

    __slots__ = ("_head", "_head_bytes", "_tail", "_tail_bytes", "choice", "usage")

    def __init__(self, head: bytes, tail: bytes, choice: int) -> None:
        self._head, self._head_bytes = head, len(head)
        self._tail, self._tail_bytes = tail, len(tail)
        self.choice = choice
        self.usage: Usage | None = None

    @property
    def around(self) -> tuple[bytes, bytes]:
        """What stands before the text, and after it."""
        return self._head, self._tail

    def is_told(self, data: bytes) -> bool:
        """See `Repeat`."""
        if data.startswith(self._head) and data.endswith(self._tail):
            start, end = self._head_bytes, len(data) - self._tail_bytes
            return _PLAIN_TEXT(data, start, end) is not None or _is_escaped_text(data[start:end])
        return False

    def within(self, before: bytes, after: bytes) -> TextRepeat:
        """See `Repeat`."""
        return TextRepeat(before + self._head, self._tail + after, self.choice)


class UsageRepeat:
    """Events that are equal but for their text and the usage behind it, which is read each time."""

    __slots__ = ("_head", "_middle", "_tail", "choice", "usage")

    def __init__(self, head: bytes, middle: bytes, tail: bytes, choice: int) -> None:
        self._head, self._middle, self._tail = head, middle, tail
        self.choice = choice
        self.usage: Usage | None = None

    def is_told(self, data: bytes) -> bool:
        """See `Repeat`."""
        if not (data.startswith(self._head) and data.endswith(self._tail)):
            return False
        start = len(self._head)
        end = data.find(self._middle, start)  # it begins with the quote that ends the text
        if end < 0 or not (_PLAIN_TEXT(data, start, end) or _is_escaped_text(data[start:end])):
            return False
        said = data[end + len(self._middle) : len(data) - len(self._tail)]
        if len(said) > _MOST_USAGE_BYTES or b"\n" in said or b"\r" in said:
            return False
        usage = _load(said)
        if type(usage) is not dict:
            return False
        self.usage = read_usage(usage)
        return True

    def within(self, before: bytes, after: bytes) -> UsageRepeat:
        """See `Repeat`."""
        return UsageRepeat(before + self._head, self._middle, self._tail + after, self.choice)


class Repeats:
    """The repeats that one answer may hold: those of the last event with content.

    bare: tells them by their payloads. framed: by reads that hold one of them and nothing else.
    """

    __slots__ = ("_at_tokens", "_in_vain", "bare", "framed")

    def __init__(self) -> None:
        self.bare: Repeat | None = None
        self.framed: Repeat | None = None
        self._in_vain = 0  # lessons in a row of which nothing came
        self._at_tokens = -1  # how many there were at the last one

    def learn(self, payload: bytes, delta: Delta, tokens: int) -> None:
        """Look at an event with content that was no repeat, unless that has come to nothing too often.

        tokens: how many the answer has come to with it.
        """
        if self._in_vain == _LESSONS_IN_VAIN:
            return
        self._in_vain = self._in_vain + 1 if tokens == self._at_tokens + 1 else 0
        self._at_tokens = tokens
        self.bare = learn(payload, delta) if self._in_vain < _LESSONS_IN_VAIN else None
        self.framed = None if self.bare is None else self.bare.within(b"data: ", b"\n\n")

    def forget(self) -> None:
        """From here on events mean something else."""
        self.bare = self.framed = None


def learn(payload: bytes, delta: Delta) -> Repeat | None:
    """What tells the repeats of an event that `read_event` has understood; None where it is not of the usual kind.

    The usual kind has one choice with text that goes on. Not counted among it: an error, a finish_reason, token ids,
    the server's metrics, and whatever has its text in another place than most.
    """
    usual = Delta(contents=1, visible=delta.visible, choices=delta.choices, usage=delta.usage)
    if delta != usual or len(delta.choices) != 1 or delta.choices[0][1] is not None:
        return None
    found = _TEXT.search(payload) if len(payload) <= _MOST_BYTES and b"\n" not in payload else None
    while found is not None and not found[2]:
        found = _TEXT.search(payload, found.end() - 1)  # an empty one stands before the one with text
    if found is None or b"\r" in payload:
        return None
    head, tail, name = payload[: found.start(2)], payload[found.end(2) :], found[1].decode()
    if delta.usage is None:
        tried = _load(head + _SAMPLE_JSON + tail)
        return TextRepeat(head, tail, delta.choices[0][0]) if _content(tried, name) == _SAMPLE else None
    return _learn_usage(head, tail, name, delta.choices[0][0])


def _learn_usage(head: bytes, tail: bytes, name: str, choice: int) -> Repeat | None:
    found = _USAGE.search(tail)
    if found is None or not tail.isascii():
        return None
    try:
        _, end = _DECODER.raw_decode(tail.decode(), found.end())
    except (ValueError, RecursionError):
        return None
    middle, tail = tail[: found.end()], tail[end:]
    tried = _load(head + _SAMPLE_JSON + middle + _SAMPLE_USAGE_JSON + tail)
    if _content(tried, name) != _SAMPLE or tried["usage"] != _SAMPLE_USAGE:
        return None
    return UsageRepeat(head, middle, tail, choice)


def _is_escaped_text(text: bytes) -> bool:
    """Whether bytes are the inside of one JSON string that is not empty, with escapes in it."""
    if b"\\" not in text or len(text) > _MOST_BYTES:
        return False
    try:
        orjson.loads(b'"%s"' % text)
    except orjson.JSONDecodeError:
        return False
    return True  # it begins and ends with a quote: were the string to end before, more than one value would stand there


def _load(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None


def _content(event: Any, name: str) -> object:
    """What stands under this name in the first choice of an event, in the place where generated text has it."""
    if type(event) is not dict:
        return None
    choice = event["choices"][0]
    part = choice.get("delta")
    if part is None:
        part = choice.get("message")
    if isinstance(part, dict):
        return None if name == "text" else part.get(name)
    return choice.get(name) if name == "text" else None
