"""Prompt: what goes into a request's body, and the identity that alone decides on it.

A prompt depends on (seed, request index), never on order, process or machine: any worker makes the same one. Prompts
differ from each other in their first tokens, so a prefix cache gives no accidental hits within a run; a second run with
the same seed sends the same prompts again, and to a server with a warm cache that does show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from fineserve_shapes.workload.seeds import Purpose, sequence

Form = Literal["token_ids", "text", "chat"]

MASK = 0xFFFFFFFF
_VERSION = "1"  # raise it when the same arguments would give other prompts


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes into a request's body.

    json: the value of the field "prompt" (an array of ids, or a string) or "messages", ready to be spliced in.
    tokens: its length as the server will count it, as far as the source can know.
    """

    json: bytes
    tokens: int

    @property
    def value(self) -> Any:
        """The same as Python values: a list of ids, a str, or a list of messages."""
        return orjson.loads(self.json)


class PromptSource(Protocol):
    """Makes the prompt of each request. Holds no state that calls change, so threads may share it.

    form: what the prompts are: "token_ids" and "text" belong in the field "prompt", "chat" in "messages".
    digest: equal for two sources just when they make the same prompts; workers compare it with the master's.
    inexact: why lengths are approximate, in words for a person; None where they are exact.
    """

    @property
    def form(self) -> Form: ...
    @property
    def digest(self) -> str: ...
    @property
    def inexact(self) -> str | None: ...

    def prompt(self, index: int, input_tokens: int, prefix: Sequence[int] = ()) -> Prompt:
        """The prompt of request `index`, of so many tokens; where that cannot be, the nearest, and `tokens` says so.

        prefix: tokens per block, and the ids of the blocks that the prompt begins with (`PrefixBlocks.rows`): equal
        ids are equal text, for any index. What is left of the prompt after them is its own.
        """
        ...


class Identity:
    """Request indexes -> numbers that stand for them, for one seed."""

    def __init__(self, seed: int) -> None:
        self._salts: list[int] = sequence(seed, Purpose.TOKENS).generate_state(4).tolist()

    def of(self, index: int) -> tuple[int, int]:
        """Two 32-bit numbers, each a bijection of the index (modulo 2**32): one to spell, one to pick a place by."""
        unique = _mixed((index ^ self._salts[0]) & MASK)
        return unique, _mixed(unique ^ self._salts[1])

    def of_block(self, number: int) -> tuple[int, int]:
        """The same for a block of tokens that prompts share; numbers beyond 32 bits may collide, in 1 of 2**32 pairs."""
        unique = _mixed((number ^ _mixed((number >> 32) & MASK) ^ self._salts[2]) & MASK)
        return unique, _mixed(unique ^ self._salts[3])


def _mixed(value: int) -> int:
    """A bijection of 32-bit numbers that spreads near ones far apart: the finaliser of MurmurHash3."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & MASK
    return value ^ (value >> 16)


def digest(seed: int, *parts: str | bytes) -> str:
    """One hexadecimal name for all that prompts are made from."""
    hashed = hashlib.sha256(f"{_VERSION}/{seed}".encode())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.hexdigest()
