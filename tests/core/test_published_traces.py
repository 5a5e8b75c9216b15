"""The traces that are published: what is in them is known, and every row is accounted for."""

from __future__ import annotations

import csv

import pytest
from traces import AZURE, DENSE, MOONCAKE, plainly, real, rows

from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace


@pytest.mark.realdata
@real(DENSE)
def test_the_published_trace_spans_8_hours_and_accounts_for_every_row():
    trace = open_trace(DENSE)
    survey = trace.survey
    assert (survey.rows, survey.kept) == (27_466, 21_043)
    assert survey.dropped == {"missing_timestamp": 6350, "below_one": 73, "beyond_max_model_len": 0}
    assert "27,466 rows, dropped 6,350 missing_timestamp, 73 below_one" in survey.line()
    assert "span 8.0 h, mean rate 0.7307/s; timestamps: us (the published FineServe form)" in survey.line()
    assert survey.warnings == ()


@pytest.mark.realdata
@real(DENSE)
def test_the_published_trace_read_in_milliseconds_is_warned_of():
    assert "--timestamp-unit" in open_trace(DENSE, TraceOptions(timestamp_unit="ms")).survey.warnings[0]


@pytest.mark.realdata
@real(DENSE)
@pytest.mark.parametrize("options", [{}, {"max_model_len": 4096, "below_one": "clamp", "start_at_s": 3600.0}])
def test_the_published_trace_is_what_the_plain_way_makes_of_it(options):
    with DENSE.open(newline="") as file:
        records = [(row["timestamp"], row["input_length"], row["output_length"]) for row in csv.DictReader(file)]
    expected, reasons = plainly(records, TraceOptions(timestamp_unit="us", **options))
    trace = open_trace(DENSE, TraceOptions(**options), chunk_rows=1000)
    assert rows(trace) == expected
    assert trace.survey.dropped["missing_timestamp"] == reasons["missing_timestamp"]
    assert trace.survey.dropped["below_one"] == reasons["below_one"]


@pytest.mark.realdata
@real(AZURE)
def test_the_azure_sample_needs_no_flag():
    survey = open_trace(AZURE).survey
    assert (survey.rows, survey.kept) == (8819, 8819)
    assert survey.span_s == pytest.approx(3435.948056, abs=1e-6)


@pytest.mark.realdata
@real(MOONCAKE)
def test_the_mooncake_sample_needs_no_flag():
    survey = open_trace(MOONCAKE).survey
    assert (survey.rows, survey.kept, survey.span_s) == (3000, 3000, 987.0)
