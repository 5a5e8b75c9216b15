"""The summary against plain NumPy over the same requests."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from measured import by_name, measurements, record

from fineserve_shapes.measure.errorkinds import MAX_ERROR_KINDS, OTHER_ERRORS
from fineserve_shapes.measure.fidelity import Accounts, Limits, judge
from fineserve_shapes.measure.histogram import RELATIVE_ERROR
from fineserve_shapes.measure.ledger import Ledgers
from fineserve_shapes.measure.measurements import Measurements, Outbox
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.summary import summarise
from fineserve_shapes.measure.summarytext import summary_text
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.outcome import OUTCOMES
from fineserve_shapes.runner.conclusion import tls_verified

PLAN = {"requests": 300, "span_s": 30.0, "rate_rps": 10.0, "fingerprint": "f" * 16}
RUN = {"run": "r", "mode": "replay", "host": "http://h", "model": "m"}
FIDELITY = judge(Tally().delivery, Tally().total, Accounts(), {}, Limits())


def tally_of(*batches: list[tuple[object, ...]], error: tuple[str, str] | None = None, **options: object) -> Tally:
    tally = Tally(**options)  # type: ignore[arg-type]
    for batch in batches:
        tally.add(measurements(batch, error, warmup_s=tally.warmup_s))
    return tally


def due(tally: Tally, rows: int) -> None:
    """So many rows of the plan fall due, at 0.1 s each, and the run is over."""
    tally.plan(np.zeros(rows, dtype=np.int64), 0.1 * np.arange(rows))
    tally.delivery.finish(float("inf"))


def ledger_of(**ended: int) -> Ledgers:
    ledgers = Ledgers()
    ledgers.total.plan(sum(ended.values()))
    for outcome, count in ended.items():
        ledgers.total.end(outcome, count)
    return ledgers


def summary_of(tally: Tally, **ended: int) -> dict[str, object]:
    return summarise(tally, ledger_of(**ended), PLAN, RUN, FIDELITY)


def test_the_summary_has_the_generators_names_and_their_values():
    tally = tally_of([record(i) for i in range(100)], [record(i) for i in range(100, 300)])
    fidelity = judge(tally.delivery, tally.total, Accounts(), {}, Limits())
    summary = summarise(tally, ledger_of(ok=300), PLAN, RUN, fidelity)
    near = pytest.approx
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
    late = {"first_token_s": 50.0, "last_token_s": 55.0, "end_s": 60.0}
    tally = tally_of([record(0), record(1, "timeout", **late)], error=("timeout", "no progress for 5 s"))
    summary = summary_of(tally, ok=1, timeout=1)
    assert summary["mean_ttft_ms"] == pytest.approx(200)
    assert summary["mean_itl_ms"] == pytest.approx(20)
    assert (summary["completed"], summary["failed"]) == (1, 1)
    assert summary["errors"] == [{"outcome": "timeout", "error": "no progress for 5 s", "requests": 2}]


def test_what_was_not_measured_is_none():
    summary = summary_of(Tally(), unsent=5)
    assert summary["mean_ttft_ms"] is None
    assert summary["fidelity"]["lag_p99_ms"] is None
    assert summary["request_throughput"] == 0.0
    assert summary["goodput"] is None
    json.dumps(summary, allow_nan=False)


def test_a_request_of_one_token_has_no_tpot():
    one = record(0, output_tokens=1, asked_output=1, last_token_s=0.201, chunks=1)
    assert tally_of([one]).total.latencies["tpot"].count == 0


def test_marks_and_differences_are_counted():
    summary = summary_of(
        tally_of([record(0, short=True, output_tokens=3), record(1, retried=True), record(2, input_tokens=99)]), ok=3
    )
    assert (summary["short"], summary["retried"]) == (1, 1)
    assert summary["tokens"]["input_differs_from_plan"] == 1


def test_the_total_is_the_sum_of_its_streams():
    rows = [record(i, stream=i % 3, first_token_s=0.1 * i + 0.1 * (1 + i % 7)) for i in range(300)]
    alike = [record(i, first_token_s=row[10]) for i, row in enumerate(rows)]
    parted, joined = tally_of(rows).total, tally_of(alike).total
    assert parted.outcomes == joined.outcomes
    for q in (0.1, 0.5, 0.99):
        assert parted.latencies["ttft"].quantile(q) == joined.latencies["ttft"].quantile(q)
    table = tally_of(rows).table()
    assert [entry["outcomes"]["ok"] for entry in table["streams"].values()] == [100, 100, 100]


def test_goodput_counts_what_met_every_bound_and_misses_all_else():
    """Of 101 due within 10 s: 60 good, 20 too slow to begin, 10 too slow a token, 5 failed, 6 never sent."""
    rows = [record(i) for i in range(60)]
    rows += [record(i, first_token_s=0.1 * i + 0.301) for i in range(60, 80)]
    rows += [record(i, last_token_s=0.1 * i + 0.801) for i in range(80, 90)]
    tally = tally_of(rows, [record(i, "http_error") for i in range(90, 95)], slo=Slo.parse("ttft=250ms,tpot=30ms"))
    due(tally, 101)
    summary = summary_of(tally, ok=90, http_error=5, unsent=6)
    assert summary["goodput"] == {
        "slo": {"ttft_ms": 250.0, "tpot_ms": 30.0}, "good": 60, "of": 101, "share": pytest.approx(60 / 101),
        "rps": pytest.approx(6.0), "output_tps": pytest.approx(66.0),
    }  # fmt: skip
    assert "60 of 101 (59.4%) met ttft 250 ms, tpot 30 ms" in summary_text(summary)
    assert sum(tally.series.as_dict()["total"]["good"]) == 60


def test_the_drain_takes_nothing_from_the_steady_window():
    """10 requests/s for 30 s; the last one takes 300 s to end."""
    rows = [record(i) for i in range(300)] + [record(300, end_s=330.0, last_token_s=329.9)]
    tally = tally_of(rows, slo=Slo.parse("ttft=250ms"))
    due(tally, 301)
    for second in range(330):
        tally.series.sample(second + 0.5, 1.0, {0: 4 if second < 30 else 1})
    summary = summary_of(tally, ok=301)
    steady = summary["steady"]
    assert summary["request_throughput"] == pytest.approx(301 / 330)
    assert (steady["start_s"], steady["end_s"]) == (0.0, pytest.approx(30.0))
    assert steady["request_throughput"] == pytest.approx(10.0, rel=0.02)
    assert steady["input_throughput"] == pytest.approx(1000.0, rel=0.02)
    assert steady["output_throughput"] == pytest.approx(110.0, rel=0.02)
    assert steady["concurrency"] == pytest.approx(4.0)
    assert summary["goodput"]["rps"] == pytest.approx(301 / 30)
    text = summary_text(summary)
    assert "done: 301 requests in 330 s, the drain included: 0.912 requests/s" in text
    assert "steady, 0 to 30 s (the last due time): 9." in text


def test_the_steady_window_begins_with_the_end_of_the_warm_up():
    rows = [record(i) for i in range(300)]
    tally = Tally(warmup_s=10.5)
    tally.add(measurements(rows, warmup_s=10.5))
    due(tally, 300)
    steady = summary_of(tally, ok=300)["steady"]
    assert (steady["start_s"], steady["end_s"]) == (10.5, pytest.approx(29.9))
    assert steady["request_throughput"] == pytest.approx(10.0)


def test_what_is_due_at_once_has_no_steady_window():
    """As with --request-rate inf: a rate over no time is none, and a share is one all the same."""
    tally = tally_of([record(i, due_s=0.0) for i in range(5)], slo=Slo.parse("ttft=250ms"))
    tally.plan(np.zeros(5, dtype=np.int64), np.zeros(5))
    tally.delivery.finish(1.0)
    summary = summary_of(tally, ok=5)
    assert summary["steady"]["request_throughput"] is None
    assert (summary["goodput"]["rps"], summary["goodput"]["share"]) == (None, 1.0)
    assert "steady" not in summary_text(summary)
    json.dumps(summary, allow_nan=False)


def test_the_first_visible_token_is_shown_where_reasoning_came_before_it():
    """The first token after 0.2 s, the first that a user sees after 0.3 s; an answer that only reasons has none."""
    plain = summary_of(tally_of([record(0)]), ok=1)
    assert plain["mean_visible_ttft_ms"] == plain["mean_ttft_ms"] == pytest.approx(200)
    assert "TTFT visible" not in summary_text(plain)
    rows = [record(0, first_visible_s=0.301), record(1, first_visible_s=np.nan)]
    summary = summary_of(tally_of(rows), ok=2)
    assert (summary["mean_ttft_ms"], summary["mean_visible_ttft_ms"]) == (pytest.approx(200), pytest.approx(300))
    assert summary["streams"]["all"]["visible_ttft"]["count"] == 1
    assert "TTFT visible          300       300" in summary_text(summary)


def test_the_warm_up_is_in_the_ledger_and_in_no_figure():
    slow = [record(i, first_token_s=0.1 * i + 5, last_token_s=0.1 * i + 6, end_s=0.1 * i + 6.1) for i in range(50)]
    tally = Tally(warmup_s=5.0)
    tally.plan(np.zeros(100, dtype=np.int64), 0.1 * np.arange(100))
    tally.add(measurements(slow + [record(i) for i in range(50, 100)], warmup_s=5.0))
    summary = summary_of(tally, ok=100)
    assert tally.planned_in_warmup == 50
    assert (summary["completed"], summary["ledger"]["ok"]) == (50, 100)
    assert summary["mean_ttft_ms"] == pytest.approx(200)
    assert summary["mean_itl_ms"] == pytest.approx(20)
    assert summary["duration"] == pytest.approx(9.9 + 0.402 - 5.0)
    assert sum(tally.series.as_dict()["total"]["ok"]) == 100


def test_a_thousand_messages_take_bounded_memory():
    outbox = Outbox()
    for index in range(1000):
        outbox.add(by_name(record(index, "http_error", chunks=0)), np.empty(0), ("http_error", f"HTTP 500: no.{index}"))
    taken = outbox.take()
    assert taken is not None
    tally = Tally()
    tally.add(Measurements.unpack(taken[2]))
    errors = tally.total.errors
    assert len(errors) <= MAX_ERROR_KINDS + 1
    assert sum(errors.values()) == 1000
    assert errors[("http_error", OTHER_ERRORS)] == 1000 - MAX_ERROR_KINDS


@pytest.mark.parametrize(
    "change",
    [{"outcome": 99}, {"stream": -1}, {"end_s": np.nan}, {"sent_s": np.inf}, {"chunks": -1}, {"first_token_s": -1e12}],
)
def test_a_message_that_holds_no_measurements_is_refused(change: dict[str, object]):
    outbox = Outbox()
    outbox.add(by_name(record(0, chunks=0)), np.empty(0), None)
    taken = outbox.take()
    assert taken is not None
    rows = np.frombuffer(taken[2]["records"], dtype=taken[0].dtype).copy()
    for name, value in change.items():
        rows[name] = value
    with pytest.raises(ValueError, match="these are no measurements"):
        Measurements.unpack(taken[2] | {"records": rows.tobytes()})


@pytest.mark.parametrize(("verified", "said"), [(False, True), (True, False), (None, False)])
def test_the_text_says_where_a_certificate_was_not_verified(verified: bool | None, said: bool):
    summary = summarise(tally_of([record(0)]), ledger_of(ok=1), PLAN, {**RUN, "tls_verified": verified}, FIDELITY)
    assert ("certificate was not verified (--insecure)" in summary_text(summary)) == said


@pytest.mark.parametrize(
    ("workers", "verified"),
    [([], None), ([None, None], None), ([True], True), ([True, True], True), ([False, True], False), ([False], False)],
)
def test_a_run_is_verified_where_every_worker_verified(workers: list[bool | None], verified: bool | None):
    assert tls_verified([{"tls_verified": found} for found in workers]) is verified


def test_the_text_shows_the_sum_of_the_ledger():
    text = summary_text(summary_of(tally_of([record(0), record(1)]), ok=2, unsent=3))
    assert "ledger: 5 planned = 2 ok + 3 unsent" in text
    assert "TTFT                  200       200" in text


def test_a_ledger_adds_up_and_refuses_what_does_not():
    ledger = ledger_of(ok=2, unknown=1).total
    assert ledger.open == 0
    ledger.reopen("unknown")
    assert ledger.open == 1
    ledger.end("http_error")
    assert ledger.as_dict()["http_error"] == 1
    with pytest.raises(ValueError, match="no request is booked as 'unknown'"):
        ledger.reopen("unknown")


def test_time_held_back_is_no_lag_but_counts_from_due():
    held = [record(0, sent_s=0.501, first_token_s=0.701, held_s=0.5, last_token_s=0.9, end_s=0.901), record(1)]
    tally = tally_of(held)
    fidelity = judge(tally.delivery, tally.total, Accounts(), {}, Limits())
    summary = summarise(tally, ledger_of(ok=2), PLAN, RUN, fidelity)
    assert summary["fidelity"]["lag_max_ms"] == pytest.approx(1.0)
    assert (summary["fidelity"]["held"], summary["fidelity"]["held_max_ms"]) == (1, pytest.approx(500.0))
    assert summary["p99_ttft_from_due_ms"] == pytest.approx(701.0, rel=RELATIVE_ERROR)
    assert "held back by --max-concurrency: 1 requests" in summary_text(summary)


def test_the_requests_that_were_retried_are_listed():
    tally = tally_of([record(5, retried=True), record(6), record(2, retried=True)])
    assert summary_of(tally, ok=3)["retried_requests"] == [2, 5]


def test_lengths_that_are_not_exact_are_one_line_with_the_reason():
    exact = summary_of(tally_of([record(0), record(1)]), ok=2)
    assert "tokens:" not in summary_text(exact)
    rows = [record(0, input_tokens=99), record(1, input_tokens=98), record(2, from_usage=False)]
    summary = summary_of(tally_of(rows), ok=3) | {"inexact_prompts": "a word counts as a token"}
    assert ("tokens: 2 of 3 prompts had another length than the plan's (a word counts as a token); output of 1 of 3 answers"
            " is counted, since their usage does not say it\n") in summary_text(summary)  # fmt: skip


def test_what_the_server_had_cached_and_guessed_is_one_line_where_it_says_so():
    summary = summary_of(tally_of([record(0)]), ok=1)
    assert "server:" not in summary_text(summary)
    summary["server_metrics"] = {"prompt_tokens": 2000.0, "cached_prompt_tokens": 500.0, "draft_acceptance_rate": None}
    assert "server: 500 of 2,000 prompt tokens were cached (25.0%)\n" in summary_text(summary)
    summary["server_metrics"] |= {"draft_acceptance_rate": 0.625, "mean_acceptance_length": 2.5}
    assert "(25.0%); 62.5% of draft tokens were accepted, 2.5 tokens a step\n" in summary_text(summary)


def test_quantiles_have_upper_bounds_where_there_are_requests_enough():
    summary = summary_of(tally_of([record(i) for i in range(500)]), ok=500)
    assert summary["p99_ttft_bound_ms"] == pytest.approx(200, rel=2 * RELATIVE_ERROR)
    assert summary["p90_tpot_bound_ms"] == pytest.approx(20, rel=2 * RELATIVE_ERROR)
    assert summary["p99.9_ttft_ms"] == pytest.approx(200, rel=RELATIVE_ERROR)
    assert summary["p99.9_ttft_bound_ms"] is None
    assert summary["bounds"]["confidence"] == 0.99
    assert summary["bounds"]["ttft"]["p99"] == {"method": "binomial", "effective_requests": 500}
    assert "p99 bound: p99 is at most that, with 99% confidence" in summary_text(summary)


def test_the_warm_up_is_in_no_bound():
    slow = [record(i, first_token_s=0.1 * i + 5, last_token_s=0.1 * i + 6, end_s=0.1 * i + 6.1) for i in range(50)]
    summary = summary_of(tally_of(slow + [record(i) for i in range(50, 550)], warmup_s=5.0), ok=550)
    assert summary["p99_ttft_bound_ms"] == pytest.approx(200, rel=2 * RELATIVE_ERROR)


def test_bounds_of_bursts_are_plain_values_too():
    """Every tenth second is slow: whole heaps of late requests."""
    rows = [record(i, first_token_s=0.1 * i + (0.4 if i // 10 % 10 == 0 else 0.2)) for i in range(1_000)]
    summary = summary_of(tally_of(rows), ok=1_000)
    assert summary["bounds"]["ttft"]["p90"]["method"] == "blocks"
    assert summary["bounds"]["ttft"]["p90"]["effective_requests"] < 500
    assert orjson.loads(orjson.dumps(summary)) == summary
