"""Records as a worker would send them, for tests of the measuring room."""

from __future__ import annotations

import numpy as np

from fineserve_shapes.measure.ledger import OUTCOMES
from fineserve_shapes.measure.measurements import Measurements, Outbox
from fineserve_shapes.measure.records import RECORD, from_rows, row_of


def record(index: int, outcome: str = "ok", **changes: object) -> tuple[object, ...]:
    """A request due at 0.1 s x index, 1 ms late, first token after 0.2 s, then 10 tokens at 20 ms, 11 in all."""
    due_s = 0.1 * index
    fields = {
        "index": index, "position": index, "stream": 0, "outcome": OUTCOMES.index(outcome), "short": False,
        "retried": False, "reused": True, "from_usage": True, "first_chunk_known": False, "due_s": due_s,
        "sent_s": due_s + 0.001,
        "first_token_s": due_s + 0.201, "first_visible_s": due_s + 0.201, "last_token_s": due_s + 0.401,
        "end_s": due_s + 0.402, "asked_input": 100, "asked_output": 11, "input_tokens": 100, "output_tokens": 11,
        "chunks": 11, "first_chunk_tokens": 1, "status": 200, "server_ttft_s": np.nan, "server_itl_s": np.nan,
        "held_s": 0.0, "no_finish_reason": False, "told_sent_s": np.nan, "told_first_token_s": np.nan,
    }  # fmt: skip
    return row_of(fields | changes)


def by_name(row: tuple[object, ...]) -> dict[str, object]:
    """A record's fields."""
    return dict(zip(RECORD.names or (), row, strict=True))


def measurements(
    rows: list[tuple[object, ...]],
    error: tuple[str, str] | None = None,
    *,
    warmup_s: float = 0.0,
    token_times: bool = False,
) -> Measurements:
    """The rows, through an outbox and a message; their chunks come evenly between first and last token."""
    outbox = Outbox(warmup_s, token_times)
    for row in rows:
        told = from_rows([row])[0]
        outbox.sent(int(told["stream"]), float(told["sent_s"]), float(told["due_s"] + told["held_s"]))
        outbox.add(
            dict(zip(RECORD.names, row, strict=True)),
            np.linspace(told["first_token_s"], told["last_token_s"], int(told["chunks"])),
            error,
        )
    taken = outbox.take()
    assert taken is not None
    return Measurements.unpack(taken[2])
