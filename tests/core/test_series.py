"""The series against plain NumPy, its merging, and its memory over days."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from measured import measurements, record
from thorough import examples

from fineserve_shapes.measure import records
from fineserve_shapes.measure.histogram import RELATIVE_ERROR
from fineserve_shapes.measure.measurements import GAPS, SENT, Measurements, Outbox
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.series import COUNTS, QUANTITIES, Series
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.outcome import OUTCOMES

NEAR = 1.0001 * RELATIVE_ERROR


def random_rows(seed: int, requests: int, span_s: float, streams: int = 2) -> list[tuple[object, ...]]:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(requests):
        sent_s = float(rng.uniform(0, span_s))
        tokens = int(rng.integers(1, 40))
        first_s = sent_s + float(rng.lognormal(-2, 0.5))
        last_s = first_s + (tokens - 1) * float(rng.lognormal(-3, 0.5))
        rows.append(
            record(
                index,
                OUTCOMES[rng.choice([0, 0, 0, 0, 2])],
                stream=int(rng.integers(streams)),
                due_s=sent_s - 0.001,
                sent_s=sent_s,
                first_token_s=first_s,
                last_token_s=last_s,
                end_s=last_s + 0.001,
                output_tokens=tokens,
                chunks=tokens,
            )
        )
    return rows


def inverted(values: np.ndarray, q: float) -> float:
    return float(np.quantile(values, q, method="inverted_cdf"))


def test_each_figure_stands_in_its_own_second_and_is_what_numpy_says():
    rows = random_rows(1, 2000, 60.0)
    measured = measurements(rows)
    series = Series(names=Names(("0", "1"), True))
    series.plan(measured.records["stream"].astype(np.int64), measured.records["due_s"])
    series.add(measured)
    found = series.as_dict()
    assert found["width_s"] == [1] * len(found["start_s"])
    assert found["start_s"] == list(range(len(found["start_s"])))
    taken = measured.records
    for name, part in {"total": taken, **{str(k): taken[taken["stream"] == k] for k in range(2)}}.items():
        columns = found["total"] if name == "total" else found["streams"][name]
        ok = part[part["outcome"] == 0]
        size = len(found["start_s"])

        def per_second(at_s: np.ndarray, size: int = size) -> list[int]:
            return np.bincount(np.floor(np.maximum(at_s, 0)).astype(int), minlength=size).tolist()

        assert columns["planned"] == per_second(part["due_s"])
        assert columns["sent"] == per_second(part["sent_s"])
        assert columns["ok"] == per_second(ok["end_s"])
        assert columns["stream_error"] == per_second(part[part["outcome"] == 2]["end_s"])
        assert sum(columns["output_tokens"]) == ok["output_tokens"].sum()
        assert sum(columns["input_tokens"]) == ok["input_tokens"].sum()
        for quantity, at_s, values_s in (
            ("ttft", ok["first_token_s"], records.ttft_s(ok)),
            ("ttft_from_due", ok["first_token_s"], records.ttft_from_due_s(ok)),
            ("tpot", ok["last_token_s"], records.tpot_s(ok)),
            ("e2e_latency", ok["end_s"], records.e2e_s(ok)),
            ("lag", part["sent_s"], records.lag_s(part)),
        ):
            seconds = np.floor(at_s)
            for second in range(size):
                here = values_s[(seconds == second) & ~np.isnan(values_s)]
                assert columns[quantity]["count"][second] == len(here)
                for q in (0.5, 0.9, 0.99):
                    value = columns[quantity][f"p{100 * q:g}_ms"][second]
                    if not len(here):
                        assert value is None
                    else:
                        assert value == pytest.approx(1e3 * inverted(here, q), rel=NEAR, abs=0.01)
    json.dumps(found, allow_nan=False)


def test_gaps_stand_in_the_second_in_which_they_end():
    """One answer over ten seconds, a chunk every 0.25 s: four gaps in each second, told in one report at its end."""
    one = record(0, due_s=0, sent_s=0.0, first_token_s=0.1, last_token_s=10.1, end_s=10.1, chunks=41, output_tokens=41)
    series = Series()
    series.add(measurements([one]))
    total = series.as_dict()["total"]
    assert total["itl"]["count"] == [3, *[4] * 9, 1]
    assert total["itl"]["p50_ms"][5] == pytest.approx(250, rel=NEAR)
    assert total["output_tokens"] == [5, *[4] * 9, 0]
    assert sum(total["output_tokens"]) == 41


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 1000), st.integers(1, 80), st.floats(1, 3000))
def test_tokens_add_up_however_they_are_spread(seed: int, requests: int, span_s: float):
    rows = measurements(random_rows(seed, requests, span_s)).records
    _, owner, tokens = records.token_flow(rows)
    assert (np.bincount(owner, tokens, minlength=len(rows)) == rows["output_tokens"]).all()
    assert (tokens >= 0).all()


def test_tokens_are_counted_as_they_come():
    series = Series()
    series.come(0.0, 0.4, {0: 7, 3: 2})
    series.come(0.4, 0.9, {0: 1})
    series.come(1.0, 1.2, {0: 5, 3: 0})
    found = series.as_dict()
    assert found["total"]["tokens_come"] == [10, 5]
    assert found["streams"]["3"]["tokens_come"] == [2, 0]
    assert found["total"]["output_tokens"] == [0, 0]


@settings(deadline=None)
@given(st.floats(0, 50), st.floats(0.01, 3.5), st.integers(0, 1000))
@example(0.6, 0.6, 60)
@example(3.0, 1.0, 7)
def test_tokens_that_are_told_together_came_evenly(since_s: float, lasting_s: float, count: int):
    """However far apart reports are, a second has its part of them, and none is lost."""
    series, at_s = Series(), since_s + lasting_s
    series.come(since_s, at_s, {0: count})
    seconds = np.arange(int(at_s) + 1)
    parts = np.minimum(seconds + 1, at_s) - np.maximum(seconds, since_s)
    wanted = count * np.maximum(parts, 0) / (at_s - since_s)
    found = np.zeros(len(seconds))
    told = series.as_dict()["total"].get("tokens_come", [])
    found[: len(told)] = told[: len(seconds)]
    assert found.sum() == count
    assert (np.abs(found - wanted) <= 1).all()


def test_in_flight_is_a_mean_over_the_slot():
    series = Series()
    for step in range(20):
        series.sample(0.05 + 0.1 * step, 0.1, {0: 4, 3: 2 if step < 10 else 0})
    found = series.as_dict()
    assert found["total"]["in_flight"] == pytest.approx([6, 4])
    assert found["streams"]["3"]["in_flight"] == pytest.approx([2, 0])


def test_rows_without_a_record_stand_in_the_second_of_due():
    series = Series()
    series.lose("unknown", np.array([0, 0, 1]), np.array([0.5, 2.5, 2.6]))
    assert series.as_dict()["total"]["unknown"] == [1, 0, 2]


def test_what_is_merged_equals_what_was_fed_at_once():
    left, right = random_rows(2, 300, 4000.0), random_rows(3, 300, 9000.0)
    parts, whole = [Series(), Series()], Series()
    for series, rows in zip(parts, (left, right), strict=True):
        series.add(measurements(rows))
    for rows in (left, right):
        whole.add(measurements(rows))
    parts[0].merge(parts[1])
    assert parts[0].as_dict() == whole.as_dict()


def test_older_seconds_are_coarser_and_nothing_is_lost():
    series, rows = Series(), random_rows(4, 4000, 100_000.0)
    for begin in range(0, len(rows), 100):
        part = sorted(rows, key=lambda row: float(row[13]))[begin : begin + 100]  # type: ignore[arg-type]
        series.add(measurements(part))
    found = series.as_dict()
    starts, widths = np.array(found["start_s"]), np.array(found["width_s"])
    assert (starts[1:] == starts[:-1] + widths[:-1]).all()  # no hole, no overlap
    assert set(widths) == {1, 10, 60, 600}
    assert (np.diff(widths) <= 0).all()
    total = found["total"]
    ok = [row for row in rows if row[2] == 0]
    assert sum(total["ok"]) == len(ok)
    assert sum(total["output_tokens"]) == sum(int(row[17]) for row in ok)  # type: ignore[call-overload]
    later = series.as_dict(since_s=50_400.0)
    assert later["start_s"] == [start for start in starts.tolist() if start >= 50_400]
    assert later["total"]["ok"] == total["ok"][-len(later["start_s"]) :]


def told_first(rows: list[tuple[object, ...]], input_tokens: int = 100) -> Measurements:
    """What a worker tells of these requests when their first tokens have come."""
    outbox = Outbox()
    for row in records.from_rows(rows):
        outbox.first(
            int(row["stream"]), float(row["due_s"]), float(row["sent_s"]), float(row["first_token_s"]), input_tokens
        )
    taken = outbox.take()
    assert taken is not None
    return Measurements.unpack(taken[2])


def first_columns(series: Series) -> list[object]:
    total = series.as_dict()["total"]
    return [total["ttft"], total["ttft_from_due"], total["input_tokens"]]


def told(row: dict[str, object]) -> dict[str, object]:
    return {"told_sent_s": row["sent_s"], "told_first_token_s": row["first_token_s"]}


def times_of(index: int) -> dict[str, object]:
    return {"sent_s": 0.1 * index + 0.001, "first_token_s": 0.1 * index + 0.25}


def test_first_tokens_stand_in_their_second_before_their_answers_end():
    rows = [record(i, **times_of(i)) for i in range(40)]
    early, late = Series(), Series()
    early.add(told_first(rows))
    late.add(measurements(rows))
    expected = first_columns(late)
    assert first_columns(early) == expected
    assert "ok" not in {name for name in COUNTS if any(early.as_dict()["total"].get(name, []))}
    early.add(measurements([record(i, **times_of(i), **told(times_of(i))) for i in range(40)]))
    assert first_columns(early) == expected


@pytest.mark.parametrize(
    "end",
    [{"outcome": "timeout"}, {"input_tokens": 77}, {"first_token_s": 0.12, "sent_s": 0.001}, {"outcome": "cancelled"}],
)
def test_what_was_told_of_an_answer_that_ends_otherwise_is_taken_back(end: dict[str, object]):
    changes = times_of(0) | {name: value for name, value in end.items() if name != "outcome"}
    outcome = str(end.get("outcome", "ok"))
    untold = Series()
    untold.add(measurements([record(0, outcome, **changes), record(3)]))
    series = Series()
    series.add(told_first([record(0, **times_of(0))]))
    series.add(measurements([record(0, outcome, **changes | told(times_of(0))), record(3)]))
    assert first_columns(series) == first_columns(untold)


def test_a_record_that_comes_late_finds_its_coarse_slot():
    series = Series()
    series.add(measurements([record(0)]))
    series.add(measurements([record(2_000_000)]))
    series.add(measurements([record(1)]))
    found = series.as_dict()
    assert found["total"]["ok"][0] == 2
    assert found["width_s"][0] == 3600


def fed(hours: float, rate_rps: float = 2.5, every_s: float = 120.0) -> Series:
    """A series of a long run: lognormal latencies, 40 gaps an answer, two streams."""
    rng = np.random.default_rng(0)
    series = Series()
    requests = int(rate_rps * every_s)
    for begin in np.arange(0.0, 3600 * hours, every_s):
        rows = np.zeros(requests, dtype=records.RECORD)
        rows["told_sent_s"] = rows["told_first_token_s"] = np.nan
        rows["stream"] = np.arange(requests) % 2
        rows["due_s"] = begin + np.arange(requests) / rate_rps
        rows["sent_s"] = rows["due_s"] + rng.lognormal(-8, 0.5, requests)
        rows["first_token_s"] = rows["sent_s"] + rng.lognormal(-2, 0.3, requests)
        rows["last_token_s"] = rows["first_token_s"] + 40 * rng.lognormal(-3.5, 0.2, requests)
        rows["end_s"] = rows["last_token_s"]
        rows["output_tokens"], rows["first_chunk_tokens"], rows["asked_input"] = 41, 1, 100
        sent, gaps = np.empty(requests, dtype=SENT), np.empty(5 * requests, dtype=GAPS)
        sent["stream"], sent["sent_s"] = rows["stream"], rows["sent_s"]
        gaps["second"] = np.repeat(np.floor(rows["end_s"]), 5)
        gaps["stream"], gaps["count"] = np.repeat(rows["stream"], 5), 8
        gaps["place"] = rng.normal(800, 10, len(gaps))
        series.plan(rows["stream"].astype(np.int64), rows["due_s"])
        series.add(Measurements(rows, sent, {}, gaps, []))
    return series


def test_three_days_take_the_memory_of_an_hour(capsys: pytest.CaptureFixture[str]):
    """The same order: five times that of an hour at most, and hardly more in a month. The figures are printed."""
    figures: dict[float, Any] = {}
    for hours in (1.0, 72.0):
        started_s = time.process_time()
        series = fed(hours, rate_rps=0.5, every_s=600)
        figures[hours] = series.nbytes, len(series.as_dict()["start_s"]), time.process_time() - started_s
    with capsys.disabled():
        for hours, (held, slots, cpu_s) in figures.items():
            print(
                f"\nseries of {hours:g} h: {held / 1e6:.1f} MB in {slots} slots, {cpu_s:.1f} s of CPU to feed", end=""
            )
        print()
    assert figures[72.0][0] < 5 * figures[1.0][0]


def test_without_an_slo_nothing_is_called_good_nor_0():
    found = Series().as_dict()
    assert set(found["total"]) == {*COUNTS, *QUANTITIES} - {"good"}
    assert "good" not in found["counts"]


def test_the_names_are_those_that_are_documented():
    found = Series(Slo.parse("ttft=1s")).as_dict()
    assert found["start_s"] == []
    assert set(found["total"]) == {*COUNTS, *QUANTITIES}
    assert set(found["total"]["ttft"]) == {"count", "p50_ms", "p90_ms", "p99_ms"}
