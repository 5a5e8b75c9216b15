"""Tokens: which pieces of an answer were tokens, and how many there were, told at its end.

While an answer comes a piece without text may be a token or a sign of life, and usage on a piece may be a total or
nonsense. Once all is there it can be told, by the rules of `count_tokens`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

NOT_SAID = -1


class Kind(IntEnum):
    """What a piece of an answer holds. CONTENT: generated content. EMPTY: text that is empty. CLOSING: a finish_reason
    without content. BARE: none of these, a role say."""

    CONTENT = 0
    EMPTY = 1
    CLOSING = 2
    BARE = 3


@dataclass(slots=True)
class Pieces:
    """The pieces of one answer in the order in which they came.

    times_s: when. kinds: of `Kind`. tokens: as token ids say, else choices with content; `said` is 1 where it was the
    ids. usage: output tokens by the usage on the piece, or NOT_SAID. choice: which one it belongs to.

    What most pieces are costs no more than their time: pieces that stand in `times_s` alone are of content, one token
    each, not by token ids (`fill` writes that down). `usage` and `choice` are kept only from the first usage on.
    """

    times_s: array[float] = field(default_factory=lambda: array("d"))
    kinds: bytearray = field(default_factory=bytearray)
    tokens: array[int] = field(default_factory=lambda: array("l"))
    said: bytearray = field(default_factory=bytearray)
    usage: array[int] = field(default_factory=lambda: array("l"))
    choice: array[int] = field(default_factory=lambda: array("l"))

    def add(self, at_s: float, kind: Kind, tokens: int, *, said: bool, usage: int | None, choice: int) -> None:
        """One more."""
        self.fill()
        self.times_s.append(at_s)
        self.kinds.append(kind)
        self.tokens.append(tokens)
        self.said.append(said)
        if usage is not None or self.usage:
            missing = len(self.times_s) - 1 - len(self.usage)
            self.usage.extend([NOT_SAID] * missing)
            self.choice.extend([0] * missing)
            self.usage.append(NOT_SAID if usage is None else usage)
            self.choice.append(choice)

    def add_content(self, at_s: float, usage: int | None, choice: int) -> None:
        """One more of content, one token, not by token ids."""
        if usage is not None and not self.usage:
            self.add(at_s, Kind.CONTENT, 1, said=False, usage=usage, choice=choice)
            return
        self.times_s.append(at_s)
        if self.usage:
            self.usage.append(NOT_SAID if usage is None else usage)
            self.choice.append(choice)

    def fill(self) -> None:
        """Write out the columns of the pieces that stand in `times_s` alone."""
        missing = len(self.times_s) - len(self.kinds)
        if missing:
            self.kinds.extend(bytes(missing))
            self.tokens.extend([1] * missing)
            self.said.extend(bytes(missing))


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of one answer.

    times_s: of the pieces that were tokens, shape (pieces,). output_tokens: None where there is nothing to go by.
    by_usage: whether the server's usage gave it. first_tokens: how many the first of these pieces held, 1 where
    `first_known` is False.
    """

    times_s: npt.NDArray[np.float64]
    output_tokens: int | None
    by_usage: bool
    first_tokens: int
    first_known: bool


def count_tokens(pieces: Pieces, final_usage: int | None, choices: int = 1) -> TokenCount:
    """Which pieces were tokens, and how many tokens there were.

    1. A piece with content is a token, or more than one, whatever usage says.
    2. Usage on the pieces is believed as a running total where it grows with every piece that has content, over all
       choices or (where several were asked for) within each. Then it says how many tokens a piece held, and a piece
       without content is a token where the total grew with it.
    3. Output tokens are by the last usage that is not 0: by that of an event without choices (`final_usage`) before that
       of a piece; else counted, by token ids or as one for each content. Usage that stays the same or falls from one
       piece with content to the next is no total.
    4. Where usage gives the total without running along, empty pieces are tokens when it equals exactly the content
       pieces and these together, with or without those that only close the answer. Where it may as well be the closing
       ones that make up the difference the empty ones are no tokens: a first token must not come too soon.
    5. A piece that only closes the answer is a token where there is no other and usage says that there was one.
    """
    pieces.fill()
    times_s = np.array(pieces.times_s, dtype=np.float64)
    counted = sum(pieces.tokens)
    if not any(pieces.kinds) and not pieces.usage:  # content and nothing else, as most servers send it
        total = final_usage or counted or None
        first_known = bool(pieces.said) and bool(pieces.said[0])
        first = pieces.tokens[0] if first_known else 1
        return TokenCount(times_s, total, bool(final_usage), first, first_known)
    growth, running_total = _running(pieces, choices)
    by_usage = final_usage or running_total or (_last_usage(pieces) if growth is None else None)
    kinds = np.frombuffer(bytes(pieces.kinds), dtype=np.uint8)
    is_token = kinds == int(Kind.CONTENT)  # NumPy takes its time over enumerations
    if growth is not None:
        is_token |= np.array(growth) > 0
    elif by_usage:
        for kind in _silent_tokens(pieces.kinds, counted, by_usage):
            is_token |= kinds == int(kind)
    at = np.flatnonzero(is_token)
    total = by_usage or counted or (len(at) or None)
    first_tokens, first_known = 1, False
    if len(at):
        first = int(at[0])
        if growth is not None:
            first_tokens, first_known = growth[first], True
        elif pieces.said[first]:
            first_tokens, first_known = pieces.tokens[first], True
    return TokenCount(times_s[at], total, bool(by_usage), first_tokens, first_known)


def _running(pieces: Pieces, choices: int) -> tuple[list[int] | None, int]:
    """By how much the total grew with each piece, where usage on the pieces is a running total, and what it came to."""
    if pieces.usage:
        owners = [[0] * len(pieces.choice)]
        if choices > 1:
            owners.append(list(pieces.choice))
        for owner in owners:
            last: dict[int, int] = {}
            growth = []
            for kind, usage, whose in zip(pieces.kinds, pieces.usage, owner, strict=True):
                before = last.get(whose, 0)
                if usage == NOT_SAID and kind != Kind.CONTENT:
                    growth.append(0)
                    continue
                grown = usage - before
                if grown < (kind == Kind.CONTENT):
                    break
                growth.append(grown)
                last[whose] = usage
            else:
                return growth, sum(last.values())
    return None, 0


def _last_usage(pieces: Pieces) -> int | None:
    """The last usage on a piece that is not 0, unless it cannot be a total."""
    if not any(usage > 0 for usage in pieces.usage):
        return None
    known = [(usage, kind) for usage, kind in zip(pieces.usage, pieces.kinds, strict=True) if usage > 0]
    last, last_kind = known[-1]
    on_content = [usage for usage, kind in known if kind == Kind.CONTENT]
    falls = any(later < earlier for earlier, later in pairwise(on_content))
    no_totals = falls or (len(on_content) > 1 and on_content[0] == on_content[-1])
    if no_totals and (last_kind == Kind.CONTENT or last in on_content):
        return None
    return last


def _silent_tokens(kinds: bytearray, counted: int, total: int) -> list[Kind]:
    """The kinds of pieces without content that were tokens."""
    empty, closing = kinds.count(Kind.EMPTY), kinds.count(Kind.CLOSING)
    if empty and (total == counted + empty + closing or (total == counted + empty and empty != closing)):
        return [Kind.EMPTY]
    return [] if counted else [Kind.CLOSING]
