"""The slow, plain twin of the reader of answers, to hold the fast one to."""

from __future__ import annotations

from typing import Any

from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.openai import Delta
from fineserve_shapes.protocol.repeats import Repeats


class NoRepeats(Repeats):
    """Learns nothing: every event is understood anew."""

    def learn(self, payload: bytes, delta: Delta, tokens: int) -> None:
        """Leave it."""


def plain_reader(asked_tokens: int | None, choices: int = 1) -> AnswerReader:
    """A reader without the recognition of repeats."""
    reader = AnswerReader(asked_tokens, choices)
    reader._repeats = NoRepeats()
    return reader


def state(reader: AnswerReader) -> tuple[Any, ...]:
    """What others see of a reader while its answer comes."""
    return (reader.tokens, reader.first_token_s, reader.done, reader.complete, reader.hopeless, reader.input_tokens,
            reader.body_bytes)  # fmt: skip
