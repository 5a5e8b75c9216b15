"""The same requests with other arrivals: rows and mean rate stay, burstiness does not."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from test_plan import plan_of, read

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.burstinesstext import burstiness_lines
from fineserve_shapes.planning.burstiness import kinds, retimed
from fineserve_shapes.shipped import DATASETS, SAMPLE_TRACE
from fineserve_shapes.values import Values

REQUESTS = 2_000


@pytest.fixture(scope="module")
def plans():
    base = plan_of(np.sort(np.random.default_rng(1).uniform(0, 100, REQUESTS)).tolist(), rows=300)
    return base, kinds(base, Values(Namespace(seed="3")), DATASETS, SAMPLE_TRACE)


def test_rows_span_and_so_the_mean_rate_stay(plans):
    base, found = plans
    assert list(found) == ["poisson", "even", "windows", "bursts", "replay"]
    for plan in found.values():
        rows = read(plan)
        np.testing.assert_array_equal(rows.input_tokens, read(base).input_tokens)
        np.testing.assert_array_equal(rows.output_tokens, read(base).output_tokens)
        assert rows.due_s[-1] == pytest.approx(base.span_s)
        assert (np.diff(rows.due_s) >= 0).all()
        assert (plan.requests, plan.span_s) == (REQUESTS, pytest.approx(base.span_s))
    assert len({plan.fingerprint for plan in found.values()}) == len(found)


def test_burstiness_does_not(plans):
    """By the CV of gaps: 0, 1, and more than that."""
    _, found = plans
    gaps = {name: np.diff(read(plan).due_s) for name, plan in found.items()}
    cv = {name: values.std() / values.mean() for name, values in gaps.items()}
    assert cv["even"] == pytest.approx(0, abs=1e-6)
    assert cv["poisson"] == pytest.approx(1, abs=0.1)
    assert cv["even"] < cv["poisson"] < cv["windows"] < cv["bursts"]


def test_a_trace_that_is_too_short_is_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    trace = tmp_path / "short.csv"
    trace.write_text("timestamp,input_length,output_length\n1.5,1,1\n2.5,1,1\n")
    values = Values(Namespace(request_trace_csv=str(trace), timestamp_unit="s"))
    found = kinds(plan_of([float(i) for i in range(50)]), values, DATASETS, SAMPLE_TRACE)
    assert "replay" not in found
    assert "the trace has 2 requests, and a run 50 (--request-trace-csv)" in caplog.text


def test_arrivals_all_at_once_cannot_be_stretched():
    with pytest.raises(InputError, match="all at once"):
        retimed(plan_of([1.0, 2.0]), "volley", np.zeros(2))


def test_what_bursts_take_is_told_beside_the_figures():
    """And what even arrivals give back, the right way round."""
    plain = dict.fromkeys(("median_ttft_ms", "p99_ttft_ms", "p99_ttft_bound_ms", "median_tpot_ms", "p99_tpot_ms"), 1.0)
    run = {"verdict": "valid", "gap_cv": 1.0, "dispersion": 1.0, "good_share": 0.9, "goodput_rps": 9.0, "rate_rps": 10.0,
           "taken_rps": None, "taken_low_rps": None, "taken_high_rps": None} | plain  # fmt: skip
    lines = burstiness_lines({
        "runs": [
            run | {"arrivals": "poisson"},
            run | {"arrivals": "even", "taken_rps": -0.5, "taken_low_rps": -0.9, "taken_high_rps": -0.1},
            run | {"arrivals": "bursts", "taken_rps": 3.0},
        ]
    })  # fmt: skip
    assert [line.split()[0] for line in lines[1:5]] == ["arrivals", "poisson", "even", "bursts"]
    assert lines[5:] == [
        "even: 0.5 good requests/s more than poisson, of 10 requests/s (between 0.1 and 0.9, 95% confidence)",
        "bursts: 3 good requests/s fewer than poisson, of 10 requests/s",
    ]
