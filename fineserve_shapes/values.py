"""Values: what was typed on the command line or in the web form, read when a run starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from fineserve_shapes.errors import InputError
from fineserve_shapes.filenames import check_writable
from fineserve_shapes.measure.duration import duration_s


def dest(flag: str) -> str:
    """The attribute under which a parser keeps a flag's value."""
    return flag.removeprefix("--").replace("-", "_")


class Values:
    """Options as values. The attributes of a parsed command line or a submitted form go in; InputError names the flag.

    own: by attribute, what stands in the place of those; a switch is True or False, all else text.
    """

    def __init__(self, parsed: Any, own: Mapping[str, str | bool] | None = None) -> None:
        self._parsed = parsed
        self._own = own or {}

    def over(self, own: Mapping[str, str | bool]) -> Values:
        """The same with others in their place."""
        return Values(self._parsed, {**self._own, **own})

    def text(self, flag: str) -> str | None:
        """What was typed, or None."""
        value = self._given(flag)
        text = "" if value is None else str(value).strip()
        return text or None

    def switch(self, flag: str) -> bool:
        """Whether it is on."""
        return bool(self._given(flag))

    def number(self, flag: str) -> float | None:
        """A finite number."""
        value: float | None = self._read(flag, float, "a number")
        return value

    def number_or(self, flag: str, otherwise: float) -> float:
        """A finite number, or the other one where none was given."""
        value = self.number(flag)
        return otherwise if value is None else value

    def count(self, flag: str) -> int | None:
        """A whole number."""
        value: int | None = self._read(flag, int, "a whole number")
        return value

    def not_negative(self, flag: str) -> float:
        """A finite number, 0 or more; 0 where none was given."""
        value = self.number(flag) or 0.0
        if value < 0:
            raise InputError(f"{flag} must not be negative, got {value:g}")
        return value

    def numbers(self, flag: str) -> list[float]:
        """Finite numbers above 0 with commas between them; empty where none was given."""
        text = self.text(flag)
        try:
            found = [] if text is None else [float(part.replace("_", " ")) for part in text.split(",")]
        except ValueError:
            found = [math.nan]
        if not all(0 < value < math.inf for value in found):
            raise InputError(f"{flag} must be numbers above 0 with commas between them, such as 1,2,4, got {text!r}")
        return found

    def duration_s(self, flag: str) -> float | None:
        """A duration with its unit, such as 10ms."""
        text = self.text(flag)
        return None if text is None else duration_s(text, flag)

    def share(self, flag: str) -> float | None:
        """A share as a number or in percent: 0.05 or 5%."""
        text = self.text(flag)
        if text is None:
            return None
        number, percent = text.removesuffix("%"), text.endswith("%")
        try:
            share = float(number.replace("_", " ")) / (100 if percent else 1)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise InputError(f"{flag} must be a share such as 0.05 or 5%, got {text!r}")
        return share

    def path(self, flag: str) -> Path | None:
        """A path."""
        text = self.text(flag)
        return None if text is None else Path(text)

    def file(self, flag: str) -> Path | None:
        """A file that is to be written, in a directory that is there."""
        path = self.path(flag)
        if path is not None:
            check_writable(path, flag)
        return path

    def json_object(self, flag: str) -> dict[str, object]:
        """A JSON object; empty where none was given."""
        text = self.text(flag)
        if text is None:
            return {}
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{flag} must be a JSON object, got {text!r}: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{flag} must be a JSON object, got {text!r}")
        return value

    def _given(self, flag: str) -> Any:
        name = dest(flag)
        return self._own[name] if name in self._own else getattr(self._parsed, name, None)

    def _read(self, flag: str, kind: Callable[[str], Any], what: str) -> Any:
        text = self.text(flag)
        if text is None:
            return None
        try:
            value = kind(text.replace("_", " "))  # int() would take 1_000, which no other place does
        except ValueError:
            raise InputError(f"{flag} must be {what}, got {text!r}") from None
        if not math.isfinite(value):
            raise InputError(f"{flag} must be {what}, got {text!r}")
        return value
