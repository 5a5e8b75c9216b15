"""Prompt files: ShareGPT conversations and lists of ``input_text``, read into plain texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped

_HUMAN = {"human", "user"}
MAX_LENGTH = 2**31 - 1
_FORMS = "a list of objects with 'conversations' or 'input_text'"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a prompt file says of one request.

    text: of the user, stripped. answer: what came back, "" where the file has none. output_length: of the answer in
    tokens, where the file gives it as a number.
    """

    text: str
    answer: str = ""
    output_length: int | None = None


def read_texts(path: Path) -> list[str]:
    """The user's text of each entry; see `read_entries`."""
    return [entry.text for entry in read_entries(path)]


def read_entries(path: Path) -> list[Entry]:
    """The entries that have a user's text, in file order.

    A ShareGPT entry has ``conversations`` (or ``conversation``), a list of ``{from, value}``: its first human turn is
    taken, and the turn after it as the answer. Any other entry has ``input_text``, and may have ``output_length``.
    Entries without a word of text are passed over.

    Raises InputError if the file cannot be read, is not such a list, or has no entry with text.
    """
    try:
        entries = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror} (--dataset-path)") from error
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path}, {place}: not JSON: {error.msg} (--dataset-path takes {_FORMS})") from error
    if not isinstance(entries, list):
        raise InputError(f"{path}: holds {_kind(entries)}; --dataset-path takes {_FORMS}")
    read = (_entry(entry, f"{path}, entry {row}") for row, entry in enumerate(entries))
    found = [entry for entry in read if entry.text]
    if not found:
        raise InputError(f"{path}: none of its {len(entries)} entries has a text; --dataset-path takes {_FORMS}")
    return found


def _entry(entry: Any, place: str) -> Entry:
    if not isinstance(entry, dict):
        raise InputError(f"{place}: expected an object, got {_kind(entry)}; --dataset-path takes {_FORMS}")
    turns = entry.get("conversations") or entry.get("conversation") or []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{place}: 'conversations' must be a list of objects with 'from' and 'value'")
    if not turns:
        return Entry(_text(entry.get("input_text"), place), "", _length(entry.get("output_length"), place))
    first = next((row for row, turn in enumerate(turns) if turn.get("from") in _HUMAN), None)
    if first is None:
        return Entry("")
    following = turns[first + 1] if first + 1 < len(turns) else {}
    answer = "" if following.get("from") in _HUMAN else _text(following.get("value"), place)
    return Entry(_text(turns[first].get("value"), place), answer)


def _text(text: Any, place: str) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(f"{place}: the text must be a string, got {_kind(text)}")
    return text.strip()


def _length(length: Any, place: str) -> int | None:
    if length is None:
        return None
    if not isinstance(length, int | float) or isinstance(length, bool) or length != int(length) or length > MAX_LENGTH:
        raise InputError(f"{place}: 'output_length' must be a whole number, got {clipped(str(length))}")
    return int(length)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
