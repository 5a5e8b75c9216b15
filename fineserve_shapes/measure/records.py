"""Records: one row per request that ended, as columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Records = npt.NDArray[np.void]

RECORD = np.dtype(
    [
        ("index", "<i8"),
        ("stream", "<i2"),
        ("outcome", "u1"),  # position in OUTCOMES
        ("short", "?"),
        ("retried", "?"),
        ("reused", "?"),
        ("from_usage", "?"),  # output tokens as the server counts them, not as chunks
        ("first_chunk_known", "?"),
        ("due_s", "<f8"),
        ("sent_s", "<f8"),
        ("first_token_s", "<f8"),
        ("first_visible_s", "<f8"),
        ("last_token_s", "<f8"),
        ("end_s", "<f8"),
        ("asked_input", "<i4"),
        ("asked_output", "<i4"),
        ("input_tokens", "<i4"),  # -1: not known
        ("output_tokens", "<i4"),  # -1: not known
        ("chunks", "<i4"),
        ("first_chunk_tokens", "<i4"),
        ("status", "<i2"),  # of HTTP; 0: none
        ("server_ttft_s", "<f8"),  # the server's own figures, where it sends them
        ("server_itl_s", "<f8"),
        ("held_s", "<f8"),  # held back by --max-concurrency
    ]
)
"""Times are seconds of the run (0 is its start), NaN where there was no such moment."""

NO_COUNT = -1


def from_rows(rows: list[tuple[Any, ...]]) -> Records:
    """Records from tuples in the order of RECORD's fields."""
    return np.array(rows, dtype=RECORD)


def unpack(data: bytes) -> Records:
    """Records from their bytes. Raises ValueError where the bytes are none."""
    return np.frombuffer(data, dtype=RECORD)


def lag_s(records: Records) -> FloatArray:
    """Sent less due, without the time in which the request was held back because others were in flight."""
    return np.asarray(records["sent_s"] - records["due_s"] - records["held_s"])


def ttft_s(records: Records) -> FloatArray:
    """First token less sent."""
    return np.asarray(records["first_token_s"] - records["sent_s"])


def ttft_from_due_s(records: Records) -> FloatArray:
    """First token less due: what a user waits who does not know of our lateness."""
    return np.asarray(records["first_token_s"] - records["due_s"])


def e2e_s(records: Records) -> FloatArray:
    """End of the answer less sent."""
    return np.asarray(records["end_s"] - records["sent_s"])


def tpot_s(records: Records) -> FloatArray:
    """(Last token - first token) / (output tokens - tokens in the first chunk); NaN for fewer than two tokens."""
    tokens = records["output_tokens"] - records["first_chunk_tokens"]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (records["last_token_s"] - records["first_token_s"]) / tokens
    return np.where(tokens > 0, value, np.nan)
