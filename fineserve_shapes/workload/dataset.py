"""Prompt files: ShareGPT conversations and lists of ``input_text``, read into plain texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from fineserve_shapes.errors import InputError

_HUMAN = {"human", "user"}
_FORMS = "a list of objects with 'conversations' or 'input_text'"


def read_texts(path: Path) -> list[str]:
    """The user's text of each entry that has one, in file order, stripped.

    A ShareGPT entry has ``conversations`` (or ``conversation``), a list of ``{from, value}``: its first human turn is
    taken. Any other entry has ``input_text``. Entries without a word of text are passed over.

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
    texts = [text for row, entry in enumerate(entries) if (text := _text(entry, f"{path}, entry {row}"))]
    if not texts:
        raise InputError(f"{path}: none of its {len(entries)} entries has a text; --dataset-path takes {_FORMS}")
    return texts


def _text(entry: Any, place: str) -> str:
    if not isinstance(entry, dict):
        raise InputError(f"{place}: expected an object, got {_kind(entry)}; --dataset-path takes {_FORMS}")
    turns = entry.get("conversations") or entry.get("conversation") or []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{place}: 'conversations' must be a list of objects with 'from' and 'value'")
    human = (turn.get("value") for turn in turns if turn.get("from") in _HUMAN)
    text = next(human, None) if turns else entry.get("input_text")
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(f"{place}: the text must be a string, got {_kind(text)}")
    return text.strip()


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
