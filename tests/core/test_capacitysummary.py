"""What is said of a search: the steps as plain values, the answer as a sentence, and both in the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import measurements, record
from test_htmlreport import HOSTILE, write_log

from fineserve_shapes.htmlreport.page import render
from fineserve_shapes.htmlreport.source import RunData
from fineserve_shapes.measure.capacity import Capacity
from fineserve_shapes.measure.capacitysummary import CAPACITY_NAMES, STEP_NAMES, capacity_figures, step_figures
from fineserve_shapes.measure.capacitytext import answer_line, capacity_lines, step_line
from fineserve_shapes.measure.decision import Decision, Verdict
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.summary import of_nothing
from fineserve_shapes.measure.tally import Tally

SLO = Slo.parse("ttft=500ms,tpot=50ms")
HOLDS = Decision(Verdict.HOLDS, "99.60% met the SLO", 0.996, 0.991, 0.998)


def step(scale: float, **more: Any) -> dict[str, Any]:
    """A step of which nothing else is known."""
    plain = of_nothing(SLO) | {"run": "r"}
    return step_figures(plain, Tally(SLO), scale, 10 * scale, HOLDS) | more


def capacity(found: Capacity | None, *steps: dict[str, Any], finished: bool = True) -> dict[str, Any]:
    return capacity_figures(found, steps, 10.0, SLO if found else None, 0.99, workload="poisson", finished=finished)


def test_scales_become_rates_by_the_workloads_own():
    found = capacity(Capacity(1.0, 2.0, 1.5, "server", 2), step(1.0, requests=30), step(2.0, requests=40))
    assert [found[name] for name in ("rate_rps", "low_rps", "high_rps", "requests")] == [15.0, 10.0, 20.0, 70]
    assert set(found) == CAPACITY_NAMES
    assert set(found["steps"][0]) == STEP_NAMES
    assert json.loads(json.dumps(found)) == found


def test_tokens_have_bounds_where_there_are_batches_enough():
    """By batch means; the true rate lies between them."""
    rng = np.random.default_rng(1)
    due_s = np.sort(rng.uniform(0, 100, 2_000))
    rows = [record(i, due_s=at, sent_s=at, first_token_s=at + 0.1, last_token_s=at + 1, end_s=at + 1, output_tokens=10)
            for i, at in enumerate(due_s.tolist())]  # fmt: skip
    tally = Tally(SLO)
    tally.plan(np.zeros(2_000, dtype=np.int64), due_s)
    tally.add(measurements(rows))
    tally.delivery.finish(101.0)
    found = step_figures(of_nothing(SLO) | {"run": "r"}, tally, 1.0, 20.0, HOLDS)
    assert found["output_throughput_low"] < 200 < found["output_throughput_high"]
    assert found["output_throughput_high"] / found["output_throughput_low"] < 1.2


@pytest.mark.parametrize(
    ("found", "finished", "line"),
    [
        (Capacity(1.0, 2.0, 1.5, "server", 2), True, "15 requests/s, scale 1.5; between scale 1 and 2"),
        (Capacity(4.0, None, 4.0, "range", 2), True, "held up to scale 4, and nothing higher failed"),
        (Capacity(None, 0.5, None, "range", 2), True, "below scale 0.5"),
        (Capacity(None, None, None, "client", 2), True, "not known (2 steps, 70 requests; the client is the limit"),
        (Capacity(1.0, None, 1.0, "server", 2), False, "not finished: this is as far as it is known"),
        (None, True, "without an SLO there is no capacity (--slo)"),
    ],
)
def test_the_answer_is_a_sentence(found: Capacity | None, finished: bool, line: str):
    said = answer_line(capacity(found, step(1.0, requests=30), step(2.0, requests=40), finished=finished))
    assert line in said
    assert "2 steps, 70 requests" in said


def test_the_stream_that_limits_a_mix_is_named():
    """The one by which the lowest scale that failed did so."""
    failed = {"decision": "fails", "stream": "code"}
    found = capacity(Capacity(1.0, 2.0, 1.5, "server", 3), step(1.0), step(4.0, decision="fails"), step(2.0, **failed))
    assert found["limiting_stream"] == "code"
    assert "between scale 1 and 2, at which the stream code fails (" in answer_line(found)
    below = capacity(Capacity(None, 2.0, None, "client", 3), step(1.0), step(2.0, **failed))
    assert "below scale 2, at which the stream code fails (2 steps" in answer_line(below)
    assert (
        capacity(Capacity(1.0, 4.0, 2.0, "server", 2), step(1.0), step(4.0, decision="fails"))["limiting_stream"]
        is None
    )


def test_goodput_of_streams_with_slos_of_their_own_is_bounded_by_each():
    """So many of each stream's requests a second at least, added up."""
    by_stream = {name: {"fidelity": {"asked": {"rate_rps": rate_rps}}} for name, rate_rps in (("a", 10.0), ("b", 5.0))}
    shares = {"a": replace(HOLDS, low=0.9, high=1.0), "b": replace(HOLDS, low=0.5, high=0.6)}
    summary = of_nothing(SLO) | {"run": "r", "streams": by_stream}
    found = step_figures(summary, Tally(SLO), 1.0, 15.0, replace(shares["b"], stream="b"), shares)
    assert (found["goodput_low_rps"], found["goodput_high_rps"]) == pytest.approx((11.5, 13.0))
    assert (found["stream"], found["streams"]["a"]["slo_share_low"]) == ("b", 0.9)
    assert found["streams"]["a"]["why"] == shares["a"].why


def test_the_table_is_by_scale_and_fits_a_terminal():
    lines = capacity_lines(capacity(Capacity(1.0, 2.0, 1.5, "server", 2), step(2.0), step(1.0, p99_ttft_ms=123.4)))
    assert [line.split()[0] for line in lines[1:4]] == ["scale", "1", "2"]
    assert max(map(len, lines[:-1])) <= 120
    assert "123" in lines[2]


def test_a_step_is_one_line_with_the_reason():
    assert step_line(step(1.0, requests=30), 3) == (
        "step 3: scale 1, 10 requests/s: holds: 99.60% met the SLO (30 requests)"
    )
    assert step_line(step(1.0, decision=None, p99_ttft_ms=120.0), 1).endswith("0 requests, TTFT p99 120 ms")


def test_the_report_has_the_steps_and_the_answer(tmp_path: Path):
    """And no such section without a search, or with what is no search's."""
    log = write_log(tmp_path / "log.jsonl", measurements([record(0)]))
    found = capacity(Capacity(1.0, 2.0, 1.5, "server", 2), step(1.0, why=HOSTILE), step(2.0))
    page = render([RunData.read(log, {"run": "r1", "capacity": found})])
    assert answer_line(found) in page
    assert 'id="curve-charts"' in page
    assert "alert(1)</script>" not in page
    assert json.dumps(found["rate_rps"]) in page
    assert 'id="burstiness"' not in page
    kinds = {"runs": [{"arrivals": "poisson", "goodput_rps": 12.25}, {"arrivals": HOSTILE, "taken_rps": 3.25}]}
    page = render([RunData.read(log, {"run": "r1", "burstiness": kinds})])
    assert "12.25" in page
    assert "3.25" in page
    assert "alert(1)</script>" not in page
    for other in (None, {}, [], found | {"steps": [{"scale": 1}]}, found | {"steps": 5}):
        page = render([RunData.read(log, {"run": "r1", "capacity": other})])
        assert 'id="curve-charts"' not in page
