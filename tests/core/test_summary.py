"""The summary against plain NumPy over the same requests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fineserve_shapes.measure.histogram import RELATIVE_ERROR
from fineserve_shapes.measure.ledger import OUTCOMES, Ledger
from fineserve_shapes.measure.outbox import MAX_ERROR_KINDS, OTHER_ERRORS, Measurements, Outbox
from fineserve_shapes.measure.report import summary_text
from fineserve_shapes.measure.summary import Totals, summarise

near = pytest.approx

PLAN = {"requests": 300, "span_s": 30.0, "rate_rps": 10.0, "fingerprint": "f" * 16}
RUN = {"run": "r", "mode": "replay", "host": "http://h", "model": "m"}


def record(index: int, outcome: str = "ok", **changes: object) -> tuple[object, ...]:
    """A request due at 0.1 s x index, 1 ms late, first token after 0.2 s, then 10 tokens at 20 ms, 11 in all."""
    due_s = 0.1 * index
    fields = {
        "index": index, "stream": 0, "outcome": OUTCOMES.index(outcome), "short": False, "retried": False,
        "reused": True, "from_usage": True, "first_chunk_known": False, "due_s": due_s, "sent_s": due_s + 0.001,
        "first_token_s": due_s + 0.201, "first_visible_s": due_s + 0.201, "last_token_s": due_s + 0.401,
        "end_s": due_s + 0.402, "asked_input": 100, "asked_output": 11, "input_tokens": 100, "output_tokens": 11,
        "chunks": 11, "first_chunk_tokens": 1, "status": 200, "server_ttft_s": np.nan, "server_itl_s": np.nan,
        "held_s": 0.0,
    }  # fmt: skip
    return tuple((fields | changes).values())


def totals_of(*batches: list[tuple[object, ...]], error: tuple[str, str] | None = None) -> Totals:
    totals = Totals()
    for batch in batches:
        outbox = Outbox()
        for row in batch:
            outbox.add(row, np.full(10, 0.02), error)
        taken = outbox.take()
        assert taken is not None
        totals.add(Measurements.unpack(taken[2]))
    return totals


def ledger_of(**ended: int) -> Ledger:
    ledger = Ledger()
    ledger.plan(sum(ended.values()))
    for outcome, count in ended.items():
        ledger.end(outcome, count)
    return ledger


def test_the_summary_has_the_generators_names_and_their_values():
    totals = totals_of([record(i) for i in range(100)], [record(i) for i in range(100, 300)])
    summary = summarise(totals, ledger_of(ok=300), PLAN, RUN, {})
    assert summary["completed"] == 300
    assert summary["duration"] == near(29.9 + 0.402)
    assert summary["total_input_tokens"] == 30_000
    assert summary["total_output_tokens"] == 3_300
    assert summary["request_throughput"] == near(300 / summary["duration"])
    assert summary["concurrency"] == near(300 * 0.401 / summary["duration"])
    for name, value_ms in (("ttft", 200), ("ttft_from_due", 201), ("tpot", 20), ("itl", 20), ("e2e_latency", 401)):
        assert summary[f"mean_{name}_ms"] == near(value_ms)
        assert summary[f"p99_{name}_ms"] == near(value_ms, rel=RELATIVE_ERROR)
        assert summary[f"std_{name}_ms"] == near(0, abs=0.01)
    assert summary["fidelity"]["lag_p99_ms"] == near(1.0, rel=RELATIVE_ERROR)
    assert summary["fidelity"]["sent_rate_rps"] == near(10.0)
    assert summary["ledger"]["planned"] == 300 == sum(summary["ledger"][name] for name in OUTCOMES)
    json.dumps(summary, allow_nan=False)


def test_latencies_are_those_of_whole_answers():
    late = {"first_token_s": 50.0, "end_s": 60.0}
    totals = totals_of([record(0), record(1, "timeout", **late)], error=("timeout", "no progress for 5 s"))
    summary = summarise(totals, ledger_of(ok=1, timeout=1), PLAN, RUN, {})
    assert summary["mean_ttft_ms"] == pytest.approx(200)
    assert (summary["completed"], summary["failed"]) == (1, 1)
    assert summary["errors"] == [{"outcome": "timeout", "error": "no progress for 5 s", "requests": 2}]


def test_what_was_not_measured_is_none():
    summary = summarise(Totals(), ledger_of(unsent=5), PLAN, RUN, {})
    assert summary["mean_ttft_ms"] is None
    assert summary["fidelity"]["lag_p99_ms"] is None
    assert summary["request_throughput"] == 0.0
    json.dumps(summary, allow_nan=False)


def test_a_request_of_one_token_has_no_tpot():
    one = record(0, output_tokens=1, asked_output=1, last_token_s=0.201)
    assert totals_of([one]).latencies["tpot"].count == 0


def test_marks_and_differences_are_counted():
    totals = totals_of([record(0, short=True, output_tokens=3), record(1, retried=True), record(2, input_tokens=99)])
    summary = summarise(totals, ledger_of(ok=3), PLAN, RUN, {})
    assert (summary["short"], summary["retried"]) == (1, 1)
    assert summary["tokens"]["input_differs_from_plan"] == 1


def test_a_thousand_messages_take_bounded_memory():
    outbox = Outbox()
    for index in range(1000):
        outbox.add(record(index, "http_error"), np.empty(0), ("http_error", f"HTTP 500: {index}"))
    taken = outbox.take()
    assert taken is not None
    totals = Totals()
    totals.add(Measurements.unpack(taken[2]))
    assert len(totals.errors) <= MAX_ERROR_KINDS + 1
    assert sum(totals.errors.values()) == 1000
    assert totals.errors[("http_error", OTHER_ERRORS)] == 1000 - MAX_ERROR_KINDS


def test_the_text_shows_the_sum_of_the_ledger():
    totals = totals_of([record(0), record(1)])
    text = summary_text(summarise(totals, ledger_of(ok=2, unsent=3), PLAN, RUN, {}))
    assert "ledger: 5 planned = 2 ok + 3 unsent" in text
    assert "TTFT                  200       200" in text


def test_a_ledger_adds_up_and_refuses_what_does_not():
    ledger = ledger_of(ok=2, unknown=1)
    assert ledger.open == 0
    ledger.reopen("unknown")
    assert ledger.open == 1
    ledger.end("http_error")
    assert ledger.as_dict()["http_error"] == 1
    with pytest.raises(ValueError, match="no request is booked as 'unknown'"):
        ledger.reopen("unknown")


def test_time_held_back_is_no_lag_but_counts_from_due():
    held = [record(0, sent_s=0.501, first_token_s=0.701, held_s=0.5, last_token_s=0.9), record(1)]
    summary = summarise(totals_of(held), ledger_of(ok=2), PLAN, RUN, {})
    assert summary["fidelity"]["lag_max_ms"] == near(1.0)
    assert (summary["fidelity"]["held"], summary["fidelity"]["held_max_ms"]) == (1, near(500.0))
    assert summary["p99_ttft_from_due_ms"] == near(701.0, rel=RELATIVE_ERROR)
    assert "held back by --max-concurrency: 1 requests" in summary_text(summary)


def test_the_requests_that_were_retried_are_listed():
    totals = totals_of([record(5, retried=True), record(6), record(2, retried=True)])
    assert summarise(totals, ledger_of(ok=3), PLAN, RUN, {})["retried_requests"] == [2, 5]
