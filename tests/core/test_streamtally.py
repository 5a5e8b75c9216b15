"""The figures of a stream in a mix are those that it would have alone, and the run's are their sum."""

from __future__ import annotations

import numpy as np
import pytest
from measured import measurements, record

from fineserve_shapes.measure.fidelity import Accounts, Limits, judge
from fineserve_shapes.measure.ledger import Ledgers
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.summary import summarise
from fineserve_shapes.measure.summarytext import summary_text
from fineserve_shapes.measure.tally import Tally

NAMES = Names(("chat", "agents", "idle"), mixed=True)
SLOS = Slos((Slo.parse("ttft=150ms"), Slo.parse("tpot=25ms"), None))
REQUESTS = 60


def measured(streams: tuple[int, ...]) -> Measurements:
    """Requests every 0.1 s: every third one an agent's, slower to begin with, every tenth failed."""
    rows = [
        record(index, "http_error" if index % 10 == 9 else "ok", stream=int(index % 3 == 0), position=index // 3,
               first_token_s=0.1 * index + (0.3 if index % 3 == 0 else 0.1) + 0.001 * (index % 7))
        for index in range(REQUESTS) if int(index % 3 == 0) in streams
    ]  # fmt: skip
    return measurements(rows, ("http_error", "HTTP 503"))


def tally_of(streams: tuple[int, ...], names: Names = NAMES, slo: Slos | Slo | None = SLOS) -> Tally:
    tally = Tally(slo, 1.0, 0.01, names)
    taken = measured(streams)
    order = np.argsort(taken.records["due_s"])
    tally.plan(taken.records["stream"][order].astype(np.int64), taken.records["due_s"][order])
    tally.add(taken)
    tally.finish(10.0)
    return tally


def ledgers_of(tally: Tally) -> Ledgers:
    ledgers = Ledgers(mixed=True)
    for row in tally_rows():
        ledgers.plan(np.array([row["stream"]]))
        ledgers.end("http_error" if row["index"] % 10 == 9 else "ok", int(row["stream"]))
    return ledgers


def tally_rows() -> np.ndarray:
    return measured((0, 1)).records


@pytest.mark.parametrize("stream", [0, 1])
def test_a_stream_is_measured_as_if_it_were_alone(stream: int):
    mixed, alone = tally_of((0, 1)).of(stream), tally_of((stream,)).of(stream)
    assert mixed.totals.figures() == alone.totals.figures()
    assert mixed.totals.outcomes == alone.totals.outcomes
    assert mixed.totals.errors == alone.totals.errors
    assert mixed.totals.good == alone.totals.good
    assert mixed.delivery.result() == alone.delivery.result()
    assert mixed.tails.figures() == alone.tails.figures()
    assert mixed.planned_in_warmup == alone.planned_in_warmup


def test_a_streams_figures_are_those_of_a_run_that_is_no_mix():
    """The agents' alone, by the code that knows one stream."""
    mixed, plain = tally_of((0, 1)).of(1), tally_of((1,), Names(("x", "agents")), Slo.parse("tpot=25ms"))
    assert mixed.totals.figures() == plain.of(1).totals.figures()
    assert mixed.delivery.result() == plain.delivery.result()
    assert mixed.totals.good == plain.of(1).totals.good


def test_the_summary_has_each_stream_by_name_and_their_sums():
    tally = tally_of((0, 1))
    ledgers = ledgers_of(tally)
    fidelity = judge(tally.delivery, tally.total, Accounts(), {}, Limits())
    of_streams = {
        name: judge(part.delivery, part.totals, Accounts(), {}, Limits()) for name, part in tally.streams.items()
    }
    run = {"run": "r", "mode": "mix", "host": "h", "model": "m"}
    plan = {"fingerprint": "f", "requests": REQUESTS, "span_s": 6.0, "rate_rps": 10.0}
    summary = summarise(tally, ledgers, plan, run, fidelity, of_streams)
    streams = summary["streams"]
    assert list(streams) == ["chat", "agents", "idle"]
    for name in ("completed", "failed", "total_input_tokens", "total_output_tokens", "short"):
        assert sum(stream[name] for stream in streams.values()) == summary[name]
    for name, count in summary["ledger"].items():
        assert sum(stream["ledger"][name] for stream in streams.values()) == count
    names = {name for name in summary if name.endswith("_ms") or name in ("duration", "steady", "goodput")}
    assert all(names <= stream.keys() for stream in streams.values())
    assert streams["idle"]["ledger"]["planned"] == streams["idle"]["completed"] == 0
    assert streams["idle"]["fidelity"]["verdict"] is None
    assert streams["idle"]["goodput"] is None
    assert streams["agents"]["goodput"]["slo"] == {"tpot_ms": 25.0}
    assert summary["goodput"]["slo"] is None
    good = {name: stream["goodput"]["good"] for name, stream in streams.items() if stream["goodput"]}
    assert (summary["goodput"]["good"], summary["goodput"]["of"]) == (sum(good.values()), 50)
    assert good["chat"] > 0
    assert streams["chat"]["errors"] == [{"outcome": "http_error", "error": "HTTP 503", "requests": 40}]
    assert streams["agents"]["errors"] == [{"outcome": "http_error", "error": "HTTP 503", "requests": 20}]
    assert streams["chat"]["median_ttft_ms"] == pytest.approx(103, abs=3)
    assert streams["agents"]["median_ttft_ms"] == pytest.approx(303, abs=3)
    text = summary_text(summary)
    rows = {line.split()[0]: line.split()[1:3] for line in text.splitlines() if line.startswith(("chat ", "agents "))}
    assert rows == {"chat": ["40", "36"], "agents": ["20", "18"]}


def test_a_stream_without_an_slo_has_no_good_answers():
    slos = Slos((None, Slo.parse("ttft=1s")))
    rows = measured((0, 1)).records
    met = slos.met(rows)
    assert not met[rows["stream"] == 0].any()
    assert met[rows["stream"] == 1].sum() == 18
    assert slos.common is None
    assert Slos((Slo.parse("ttft=1s"),) * 2).common == Slo.parse("ttft=1s")
    assert not Slos((None, None))


def test_a_lag_that_one_stream_allows_is_allowed_to_that_one_alone():
    """Every other request of both left 0.2 s late, in the second after that in which it was due."""
    tally = Tally(names=NAMES, allowed_lags_s=(0.01, 1.0, 0.01))
    rows = [
        record(10 * second + 9, stream=stream, sent_s=second + (1.1 if second % 2 else 0.9))
        for second in range(40) for stream in (0, 1)
    ]  # fmt: skip
    taken = measurements(rows)
    tally.plan(taken.records["stream"].astype(np.int64), taken.records["due_s"])
    tally.add(taken)
    tally.finish(40.0)
    strict, lenient = (tally.of(stream).delivery.result() for stream in (0, 1))
    assert lenient["delivered"]["dispersion"] == lenient["asked"]["dispersion"]
    assert strict["delivered"]["dispersion"] != strict["asked"]["dispersion"]
