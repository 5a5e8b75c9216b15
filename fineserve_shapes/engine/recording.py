"""Recording: a request of the plan and its result become the fields of a record."""

from __future__ import annotations

import math
from typing import Any

from fineserve_shapes.leases.lease import Row
from fineserve_shapes.measure.ledger import OUTCOMES
from fineserve_shapes.measure.records import NO_COUNT
from fineserve_shapes.protocol.result import Result

NOT_TOLD = (math.nan, math.nan)


def record_of(
    row: Row, result: Result, shift_s: float, held_s: float, told: tuple[float, float] = NOT_TOLD
) -> dict[str, Any]:
    """The fields of RECORD by name.

    shift_s: the run's time less this process's. held_s: for how long --max-concurrency held the request back.
    told: when it was sent and its first token came, in the run's time, if that was told before its end.
    """

    def at(time_s: float | None) -> float:
        return math.nan if time_s is None else time_s + shift_s

    metrics = result.server_metrics or {}
    return {
        "index": row.request,
        "position": row.position,
        "stream": row.stream,
        "outcome": OUTCOMES.index(result.outcome),
        "short": result.short,
        "no_finish_reason": result.no_finish_reason,
        "retried": result.retried,
        "reused": result.reused,
        "from_usage": result.tokens_from == "usage",
        "first_chunk_known": result.first_chunk_known,
        "due_s": row.due_s,
        "sent_s": at(result.sent_s),
        "first_token_s": at(result.first_token_s),
        "first_visible_s": at(result.first_visible_s),
        "last_token_s": at(result.last_token_s),
        "end_s": at(result.end_s),
        "asked_input": row.input_tokens,
        "asked_output": row.output_tokens if result.asked_tokens is None else result.asked_tokens,
        "input_tokens": NO_COUNT if result.input_tokens is None else result.input_tokens,
        "output_tokens": NO_COUNT if result.output_tokens is None else result.output_tokens,
        "chunks": len(result.chunk_times_s),
        "first_chunk_tokens": result.first_chunk_tokens,
        "status": result.status or 0,
        "server_ttft_s": _seconds(metrics.get("time_to_first_token_ms")),
        "server_itl_s": _seconds(metrics.get("mean_itl_ms")),
        "held_s": held_s,
        "told_sent_s": told[0],
        "told_first_token_s": told[1],
    }


def _seconds(value_ms: object) -> float:
    return value_ms / 1e3 if isinstance(value_ms, int | float) else math.nan
