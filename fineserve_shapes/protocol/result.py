"""Result: what became of one request, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request. Times are the caller's clock, seconds; None where there was no such moment.

    outcome: see `Outcome`; never UNSENT or UNKNOWN, which are no results.
    error: one line of text, None for an ok.
    first_visible_s: first content that is no reasoning.
    end_s: when the answer ended; for an ok that is its last event, `[DONE]` where it comes.
    chunk_times_s: when each chunk that carries tokens came, shape (chunks,).
    output_tokens: by the server's usage where that can be believed ("usage"), else counted ("chunks"), or "none".
    first_chunk_tokens: tokens in the first of those chunks; `first_chunk_known` is False where 1 is assumed.
    asked_tokens: how many were asked for, in all choices; None where nothing bounds them.
    no_finish_reason: an ok that never said why it ended. short: an ok that ended before the asked length.
    body_bytes: of the answer, without HTTP's framing.
    """

    outcome: Outcome
    error: str | None
    sent_s: float
    end_s: float
    first_token_s: float | None = None
    first_visible_s: float | None = None
    last_token_s: float | None = None
    chunk_times_s: FloatArray = field(default_factory=lambda: np.empty(0))
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_from: str = "none"
    first_chunk_tokens: int = 1
    first_chunk_known: bool = False
    finish_reason: str | None = None
    asked_tokens: int | None = None
    no_finish_reason: bool = False
    short: bool = False
    retried: bool = False
    reused: bool = False
    status: int | None = None
    retry_after_s: float | None = None
    server_metrics: Mapping[str, Any] | None = None
    body_bytes: int = 0

    @property
    def ttft_s(self) -> float | None:
        """First token less sent."""
        return None if self.first_token_s is None else self.first_token_s - self.sent_s

    @property
    def e2e_s(self) -> float:
        """End of the answer less sent."""
        return self.end_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first chunk; None for fewer than two tokens."""
        if self.first_token_s is None or self.last_token_s is None or self.output_tokens is None:
            return None
        tokens = self.output_tokens - self.first_chunk_tokens
        return (self.last_token_s - self.first_token_s) / tokens if tokens > 0 else None

    @property
    def itl_s(self) -> FloatArray:
        """Gaps between chunks that carry tokens, shape (chunks - 1,)."""
        return np.diff(self.chunk_times_s)
