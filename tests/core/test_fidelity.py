"""Asked against delivered, and the verdict with its reasons."""

from __future__ import annotations

import json

import numpy as np
import pytest
from measured import measurements, record

from fineserve_shapes.dispersion import BurstinessMeter
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.delivery import HOLD_S, Delivery
from fineserve_shapes.measure.duration import duration_s
from fineserve_shapes.measure.fidelity import Accounts, Limits, Process, judge
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.tally import Tally


def run_of(requests: int = 200, lag_s: float = 0.001, ttft_s: float = 0.1) -> Tally:
    tally = Tally()
    rows = [
        record(i, sent_s=0.1 * i + lag_s, first_token_s=0.1 * i + lag_s + ttft_s, last_token_s=0.1 * i + lag_s + 1,
               end_s=0.1 * i + lag_s + 1.1)
        for i in range(requests)
    ]  # fmt: skip
    tally.plan(np.zeros(requests, dtype=np.int64), 0.1 * np.arange(requests))
    tally.add(measurements(rows))
    tally.delivery.finish(0.1 * requests)
    return tally


def verdict(tally: Tally, accounts: Accounts | None = None, limits: Limits | None = None, **workers: Process):
    found = judge(tally.delivery, tally.total, accounts or Accounts(), workers, limits or Limits())
    json.dumps(found, allow_nan=False)
    return found


def test_a_run_that_kept_its_times_is_valid():
    found = verdict(run_of(), a=Process(uncertainty_s=0.0001))
    assert (found["verdict"], found["reasons"]) == ("valid", [])
    assert found["due"] == found["asked"]["requests"] == found["delivered"]["requests"] == 200
    assert found["asked"]["rate_rps"] == pytest.approx(found["delivered"]["rate_rps"])
    assert found["lag_p99_of_ttft"] == pytest.approx(0.01, rel=0.02)


def test_a_late_run_is_invalid_unless_its_ttft_is_long():
    assert verdict(run_of(lag_s=0.02))["reasons"] == ["lag p99 is 20 ms, above 10 ms"]
    assert verdict(run_of(lag_s=0.02, ttft_s=0.5))["verdict"] == "valid"  # 5 % of the TTFT are 25 ms
    assert verdict(run_of(lag_s=0.02, ttft_s=0.5), limits=Limits(lag_share=0.01))["verdict"] == "invalid"
    assert verdict(run_of(lag_s=0.02), limits=Limits(lag_s=0.05))["verdict"] == "valid"


def test_rows_that_did_not_leave_make_it_invalid():
    assert verdict(run_of(), Accounts(unsent=3))["reasons"] == ["3 requests were due and not sent"]
    assert "2 requests may not have been sent" in verdict(run_of(), Accounts(unknown=2))["reasons"][0]


@pytest.mark.parametrize("uncertainty_s", [0.002, float("inf"), float("nan")])
def test_a_clock_that_cannot_be_trusted_makes_it_invalid(uncertainty_s: float):
    found = judge(run_of().delivery, run_of().total, Accounts(), {"a": Process(uncertainty_s=uncertainty_s)}, Limits())
    assert found["verdict"] == "invalid"
    assert "the clock of a is uncertain" in found["reasons"][0]


def test_nothing_due_has_no_verdict():
    assert verdict(Tally())["verdict"] is None


def test_delivery_is_what_a_meter_says_whatever_the_order_of_reports():
    rng = np.random.default_rng(5)
    due_s = np.sort(rng.uniform(0, 900, 5000))
    sent_s = due_s + rng.exponential(0.001, len(due_s))
    worker = rng.integers(3, size=len(due_s))
    delivery = Delivery()
    for begin in range(0, 900, 2):
        delivery.plan(due_s[(due_s >= begin) & (due_s < begin + 2)])
        for number in rng.permutation(3):
            delivery.sent(sent_s[(sent_s >= begin) & (sent_s < begin + 2) & (worker == number)])
        delivery.advance(begin + 2.0)
    delivery.finish(900.0)
    found = delivery.result()
    for name, times_s in (("asked", due_s), ("delivered", np.sort(sent_s))):
        meter = BurstinessMeter()
        meter.add(times_s)
        expected = meter.result(found["span_s"])
        assert found[name]["requests"] == 5000
        assert found[name]["gap_cv"] == pytest.approx(expected.gap_cv)
        assert found[name]["dispersion"] == {str(k): pytest.approx(v) for k, v in expected.dispersion.items()}
    assert found["told_late"] == 0


def test_what_is_told_too_late_is_counted_and_said():
    delivery = Delivery()
    delivery.sent(np.array([1.0, 2.0, 3.0]))
    delivery.advance(3.0 + HOLD_S)
    delivery.sent(np.array([0.5, 4.0]))
    delivery.finish(5.0)
    found = delivery.result()
    assert (found["told_late"], found["delivered"]["requests"]) == (1, 5)


def test_rows_due_after_the_end_were_not_asked_for():
    delivery = Delivery()
    delivery.plan(np.arange(10.0))
    delivery.finish(4.5)
    assert delivery.due == 5


@pytest.mark.parametrize(("text", "value_s"), [("500ms", 0.5), (" 1.5 s", 1.5), ("20us", 2e-5), ("2m", 120.0)])
def test_durations_have_a_unit(text: str, value_s: float):
    assert duration_s(text, "--slo") == pytest.approx(value_s)


@pytest.mark.parametrize("text", ["500", "", "ms", "-1ms", "0s", "nanms", "1e999s", "1.2.3s"])
def test_a_duration_without_sense_is_refused(text: str):
    with pytest.raises(InputError, match="--max-lag must be a duration above 0 with its unit"):
        duration_s(text, "--max-lag")


@pytest.mark.parametrize("text", ["ttft", "speed=1s", "", "ttft=1s,,tpot=1s", "ttft=5"])
def test_an_slo_without_sense_is_refused(text: str):
    with pytest.raises(InputError, match="--slo"):
        Slo.parse(text)


def test_an_answer_of_one_token_meets_tpot_and_one_without_a_first_token_misses_ttft():
    rows = measurements([
        record(0, output_tokens=1, chunks=1, last_token_s=0.201),
        record(1, first_token_s=np.nan, last_token_s=np.nan, chunks=0),
        record(2, "timeout"),
    ]).records  # fmt: skip
    assert Slo.parse("tpot=1ms").met(rows).tolist() == [True, True, False]
    assert Slo.parse("ttft=1s").met(rows).tolist() == [True, False, False]
    assert Slo.parse("e2e=1s,ttft_from_due=0.21s").met(rows).tolist() == [True, False, False]
