"""Records: one row per request that ended, as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import FloatArray, IntArray

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
        ("no_finish_reason", "?"),
        ("told_sent_s", "<f8"),  # as they were told when the first token came; NaN where they were not
        ("told_first_token_s", "<f8"),
        ("position", "<i8"),  # in its stream
    ]
)
"""Times are seconds of the run (0 is its start), NaN where there was no such moment."""

NO_COUNT = -1

row_of: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*(RECORD.names or ()))
"""The fields of a record, by name, as a tuple in the order of RECORD."""


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


def input_tokens(records: Records) -> FloatArray:
    """The length of the prompt by the server's usage, or else as it was asked for."""
    told = records["input_tokens"] >= 0
    return np.where(told, records["input_tokens"], records["asked_input"]).astype(np.float64)


def token_flow(records: Records) -> tuple[FloatArray, IntArray, FloatArray]:
    """Output tokens over time: the first chunk's at its moment, the others evenly up to the last token.

    Returns seconds, the position of the record, and whole tokens, shape (n,); the tokens of a record add up to its own.
    Answers without a time of their first token count at their end.
    """
    tokens = np.maximum(records["output_tokens"], 0).astype(np.int64)
    timed = ~np.isnan(records["first_token_s"])
    first_s = np.where(timed, records["first_token_s"], records["end_s"])
    last_s = np.where(timed, np.maximum(records["last_token_s"], first_s), first_s)
    first = np.where(last_s > first_s, np.minimum(records["first_chunk_tokens"], tokens), tokens)
    begin = np.floor(first_s)
    seconds = (np.floor(last_s) - begin).astype(np.int64) + 1
    owner = np.repeat(np.arange(len(records)), seconds)
    head = np.concatenate([[0], np.cumsum(seconds)[:-1]]).astype(np.int64)
    at = begin[owner] + np.arange(len(owner)) - head[owner]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.minimum((at + 1 - first_s[owner]) / (last_s - first_s)[owner], 1.0)
    share = np.where(np.isfinite(share), share, 1.0)
    so_far = np.round(first[owner] + (tokens - first)[owner] * share)
    steps = np.diff(so_far, prepend=0.0)
    steps[head] = so_far[head]
    return np.asarray(at, dtype=np.float64), owner.astype(np.int64), steps
