"""Error kinds: which errors are one, so that a table of them stays short whatever a server writes into its texts."""

from __future__ import annotations

import re

MAX_ERROR_KINDS = 200
OTHER_ERRORS = "other errors"
_NUMBER = re.compile(r"(?<!HTTP )(?<![\w.:-])\d+(?![\w.:-]*\d)")
"""A whole number that stands by itself: `2126 input tokens`, `value=2126`; not a status, an address, a version, an id."""


class ErrorKinds:
    """Errors of one outcome whose texts differ in their numbers alone are one kind, named by its first text.

    A thousand different texts must not grow memory: beyond `most` kinds the others are one.
    """

    def __init__(self, most: int = MAX_ERROR_KINDS) -> None:
        self._most = most
        self._first: dict[tuple[str, str], str] = {}

    def name(self, outcome: str, text: str) -> str:
        """The text that stands for an error."""
        kind = outcome, _NUMBER.sub("0", text)
        if kind not in self._first and len(self._first) >= self._most:
            return OTHER_ERRORS
        return self._first.setdefault(kind, text)
