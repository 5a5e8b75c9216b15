"""The unit of a trace's timestamps: known, told, or asked for, and never guessed against what is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from traces import AZURE, DENSE, MINIMAL, MOONCAKE, PUBLISHED, read, real, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.timestamps import PER_SECOND
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

BURSTGPT = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
SPANS = r"; say --timestamp-unit s, ms, us or ns: its [\d,]+ rows span .* in s, .* in ms, .* in us, .* in ns$"
ASKED = r"the unit of column \w+ cannot be told.*" + SPANS


def mooncake(times: list[object], **more: object) -> list[str]:
    """Rows of Mooncake's form, with more columns."""
    return [
        json.dumps({"timestamp": time, "input_length": 9, "output_length": 8, "hash_ids": [0]} | more) for time in times
    ]


BAILIAN = {"chat_id": 159, "parent_chat_id": -1, "turn": 1, "type": "text"}


def in_form(form: str, times: list[object]) -> tuple[list[str], str]:
    """Lines of a file of a published form with such timestamps, and its name."""
    if form == "mooncake":
        return mooncake(times), "trace.jsonl"
    if form == "bailian":
        return mooncake(times, **BAILIAN), "trace.jsonl"
    header, row = {
        "three columns": (MINIMAL, "{},1,1"),
        "fineserve": (PUBLISHED, "1,1,0.1,{},Dense,<10B"),
        "burstgpt": (BURSTGPT, "{},,1,GPT-4,1,1,2,Conversation log"),
    }[form]
    return [header, *(row.format(time) for time in times)], "trace.csv"


# --- published forms need no flag


def test_the_published_form_is_in_microseconds(write):
    trace = open_trace(write(PUBLISHED, "10,20,0.1,0.0,Dense,<10B", "30,40,,2500000.0,Dense,<10B"))
    assert rows(trace) == [(0.0, 10, 20), (2.5, 30, 40)]
    assert (trace.survey.timestamp_unit, trace.survey.unit_reason) == ("us", "the published FineServe form")


def test_a_file_with_only_the_three_columns_is_in_milliseconds(write):
    trace = open_trace(write(MINIMAL, "1000,10,20", "3500,30,40"))
    assert rows(trace) == [(0.0, 10, 20), (2.5, 30, 40)]
    assert trace.survey.timestamp_unit == "ms"


@pytest.mark.parametrize(("unit", "span_s"), [("s", 2500.0), ("ms", 2.5), ("us", 2.5e-3), ("ns", 2.5e-6)])
def test_the_flag_says_the_unit_of_any_form(write, unit, span_s):
    trace = open_trace(write(MINIMAL, "0,1,1", "2500,1,1"), TraceOptions(timestamp_unit=unit))
    assert trace.survey.span_s == span_s
    assert trace.survey.unit_reason == "--timestamp-unit"


def test_another_form_asks_for_the_unit(write):
    path = write(MINIMAL + ",model", "0,1,1,x")
    with pytest.raises(InputError, match=r"unit of column timestamp.*model; say --timestamp-unit s, ms, us or ns"):
        open_trace(path)
    assert open_trace(path, TraceOptions(timestamp_unit="s")).survey.kept == 1


def test_date_times_need_no_unit_and_may_have_a_zone(write):
    header = "TIMESTAMP,ContextTokens,GeneratedTokens,NumImages"
    trace = open_trace(
        write(
            header,
            "2024-05-10 00:00:00.0000000+00:00,1,1,0",
            "2024-05-10 00:00:00.5000001+00:00,2,2,0",
            "2024-05-10 02:00:01+02:00,3,3,0",
        )
    )
    assert rows(trace) == [(0.0, 1, 1), (pytest.approx(0.5), 2, 2), (1.0, 3, 3)]
    assert trace.survey.timestamp_unit == "date-time"


def test_a_unit_for_date_times_is_an_error(write):
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03.9799600,1,1")
    with pytest.raises(InputError, match=r"holds date-times, which have no unit \(leave --timestamp-unit at auto"):
        open_trace(path, TraceOptions(timestamp_unit="s"))


def test_burstgpt_is_in_seconds_and_its_failed_requests_are_dropped(write):
    trace = open_trace(
        write(
            "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
            "5,,1,ChatGPT,472,18,490,Conversation log",
            "45,,1,ChatGPT,1087,0,1087,Conversation log",
            "118,,1,GPT-4,417,276,693,Conversation log",
        )
    )
    assert rows(trace) == [(0.0, 472, 18), (113.0, 417, 276)]
    assert trace.survey.dropped["below_one"] == 1


def test_mooncake_is_in_milliseconds(write):
    lines = [json.dumps({"timestamp": t, "input_length": 9, "output_length": 8, "hash_ids": [0]}) for t in (0, 3000)]
    trace = open_trace(write(*lines, name="trace.jsonl"))
    assert rows(trace) == [(0.0, 9, 8), (3.0, 9, 8)]


@pytest.mark.parametrize(
    ("kind", "metadata", "span_s"),
    [
        (pa.int64(), {"fineserve.timestamp_unit": "s"}, 2000.0),
        (pa.float64(), {"fineserve.timestamp_unit": "us"}, 2e-3),
        (pa.timestamp("us"), None, 2e-3),
        (pa.timestamp("ns", tz="UTC"), None, 2e-6),
        (pa.int64(), None, 2.0),
    ],
)
def test_a_unit_stored_in_the_file_wins(tmp_path, kind, metadata, span_s):
    lengths = pa.array([1, 1])
    table = pa.table({"timestamp": pa.array([0, 2000]).cast(kind), "input_length": lengths, "output_length": lengths})
    path = tmp_path / "trace.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert open_trace(path).survey.span_s == span_s


def test_an_unknown_stored_unit_is_an_error(tmp_path):
    ones = pa.array([1, 1])
    table = pa.table({"timestamp": ones, "input_length": ones, "output_length": ones})
    pq.write_table(table.replace_schema_metadata({"fineserve.timestamp_unit": "h"}), tmp_path / "trace.parquet")
    with pytest.raises(InputError, match="the timestamp unit 'h', which is none of s, ms, us, ns"):
        open_trace(tmp_path / "trace.parquet")


# --- what a form's unit is not taken against


UNIT = {"three columns": "ms", "fineserve": "us", "mooncake": "ms", "bailian": "s", "burstgpt": "s"}


@pytest.mark.parametrize("form", UNIT)
def test_values_like_those_published_leave_a_form_its_unit(write, form):
    lines, name = in_form(form, [0, 40, 277, 9000.0])
    survey = open_trace(write(*lines, name=name)).survey
    assert (survey.timestamp_unit, survey.span_s) == (UNIT[form], 9000 / PER_SECOND[UNIT[form]])


@pytest.mark.parametrize("form", UNIT)
@pytest.mark.parametrize("unit", PER_SECOND)
def test_times_since_1970_in_any_unit_make_every_form_ask(write, form, unit):
    """Those of a published trace count from its start, so this is not one, whatever its columns."""
    lines, name = in_form(form, [int(1_718_000_000 * PER_SECOND[unit]) + step for step in (0, 60, 61)])
    path = write(*lines, name=name)
    with pytest.raises(InputError, match=rf"looks like a time in {unit} since 1970,.*{SPANS}"):
        open_trace(path)
    assert open_trace(path, TraceOptions(timestamp_unit=unit)).survey.kept == 3


@pytest.mark.parametrize("form", ["three columns", "fineserve", "mooncake"])
def test_a_fraction_speaks_against_a_form_of_whole_numbers(write, form):
    lines, name = in_form(form, [0, 61.114, 62])
    path = write(*lines, name=name)
    with pytest.raises(
        InputError, match=f"the unit of column timestamp cannot be told: .*61.114 is no whole number.*{SPANS}"
    ):
        open_trace(path)
    assert open_trace(path, TraceOptions(timestamp_unit="s")).survey.span_s == 62


def test_a_part_of_a_microsecond_is_what_arithmetic_leaves_unless_the_rate_is_wrong_too(write):
    lines, name = in_form("fineserve", [0, 16666.7, 33333.3])
    assert open_trace(write(*lines, name=name)).survey.timestamp_unit == "us"
    lines, name = in_form("fineserve", [0, 61.7, 133.3])
    with pytest.raises(InputError, match=r"61.7 is no whole number, and 22,506 requests a second are hardly"):
        open_trace(write(*lines, name=name))


@pytest.mark.parametrize("form", ["bailian", "burstgpt"])
def test_seconds_may_have_fractions(write, form):
    lines, name = in_form(form, [0, 61.114, 62])
    assert open_trace(write(*lines, name=name)).survey.span_s == 62


def test_what_rounding_leaves_of_a_whole_number_is_no_fraction(write):
    lines, name = in_form("fineserve", [repr(0.1 * 3 * 1e6), repr(2.3 * 1e6), repr(1.1 * 1e9)])
    assert open_trace(write(*lines, name=name)).survey.timestamp_unit == "us"


def test_a_fraction_in_a_later_row_is_an_error_with_its_place(write):
    lines, name = in_form("mooncake", [*range(0, 15_000, 10), 15_000.5])
    with pytest.raises(
        InputError, match=r"row 1501 \(line 1501\), .*15000.5 is no whole number of ms.*--timestamp-unit s"
    ):
        open_trace(write(*lines, name=name), chunk_rows=100)


def test_some_of_bailian_s_columns_make_neither_form(write):
    """A file cut down from Bailian's still looks like Mooncake's, in another unit."""
    with pytest.raises(InputError, match=ASKED):
        open_trace(write(*mooncake([0, 60], turn=1), name="trace.jsonl"))


def test_columns_named_by_hand_make_a_form_only_by_their_own_names(write):
    named = {"timestamp_column": "at", "input_length_column": "in", "output_length_column": "out"}
    path = write("at,in,out", "0,1,1", "2500,1,1")
    spans = "41.7 min in s, 2.5 s in ms, 0.0025 s in us, <0.0001 s in ns"
    with pytest.raises(
        InputError, match=f"unit of column at cannot be told from the columns at, in, out;.* 2 rows span {spans}"
    ):
        open_trace(path, TraceOptions(**named))
    published = {name: name.removesuffix("_column") for name in named}
    path = write(PUBLISHED, "10,20,0.1,0.0,Dense,<10B", "30,40,,2500000.0,Dense,<10B")
    assert open_trace(path, TraceOptions(**published)).survey.timestamp_unit == "us"


def test_the_first_value_may_come_late(write):
    lines, name = in_form("three columns", [*[""] * 2500, 1_718_000_000, 1_718_000_001])
    with pytest.raises(InputError, match="looks like a time in s since 1970"):
        open_trace(write(*lines, name=name))


@pytest.mark.parametrize("times", [[0, 61.114], [1_718_000_000, 1_718_000_060]])
def test_parquet_follows_the_same_rule(tmp_path, times):
    ones = pa.array([1, 1])
    pq.write_table(pa.table({"timestamp": times, "input_length": ones, "output_length": ones}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=ASKED):
        open_trace(tmp_path / "t.parquet")


# --- what is warned of


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("ms", [0, 10_000_000]),  # 2e-4/s
        ("s", [0, 0.001]),  # 2,000/s
        ("ms", [0, 6e9, 6e9]),  # 69 days
        ("ms", range(100)),  # seconds read as milliseconds
        ("ms", [*range(5000), *range(86_400_000, 86_405_000)]),  # the same with a night between, which hides the rate
        ("s", [0, *range(1_718_000_000, 1_718_000_100)]),  # one row of a trace from another clock
    ],
)  # fmt: skip
def test_what_no_server_saw_is_warned_of_with_the_flag_that_mends_it(write, unit, times):
    path = write(MINIMAL, *(f"{time},1,1" for time in times))
    survey = open_trace(path, TraceOptions(timestamp_unit=unit)).survey
    assert len(survey.warnings) == 1
    assert "--timestamp-unit" in survey.warnings[0]


@pytest.mark.parametrize("unit", PER_SECOND)
def test_a_flag_that_speaks_against_times_since_1970_is_warned_of(write, unit):
    path = write(MINIMAL, *(f"{time},1,1" for time in range(1_718_000_000_000, 1_718_000_100_000, 500)))
    warnings = open_trace(path, TraceOptions(timestamp_unit=unit)).survey.warnings
    expected = f"timestamps are read in {unit} and look like ms since 1970: check --timestamp-unit"
    assert warnings == (() if unit == "ms" else (expected,))


@pytest.mark.parametrize("chunk_rows", [7, 700, 5000])
def test_seconds_that_have_requests_are_counted_whatever_the_chunks(write, chunk_rows):
    """3,600 requests in three seconds and one after 20 minutes: 3/s in the mean, 900 in a second that has any. With
    another 800 in the third second it is 1,100."""
    times = [second + part / 1200 for second in range(3) for part in range(1200)]

    def warnings(times: list[float]) -> tuple[str, ...]:
        path = write(MINIMAL, *(f"{time!r},1,1" for time in times))
        options = TraceOptions(timestamp_unit="s")
        return open_trace(path, options, chunk_rows=chunk_rows, memory_rows=10).read_survey().warnings

    assert warnings([*times, 1200.0]) == ()
    (warning,) = warnings([*times, *[times[-1]] * 800, 1200.0])
    assert "at a mean rate of 3.67/s (1,100 in each second that has any)" in warning


def test_a_plausible_rate_is_not_warned_of(write):
    assert open_trace(write(MINIMAL, "0,1,1", "1000,1,1")).survey.warnings == ()


# --- the real ones


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("path", "unit"),
    [
        pytest.param(path, unit, marks=real(path))
        for path, unit in ((DENSE, "us"), (AZURE, "date-time"), (MOONCAKE, "ms"))
    ],
)
def test_published_traces_are_known_and_not_warned_of(path: Path, unit: str):
    survey = open_trace(path).survey
    assert (survey.timestamp_unit, survey.warnings) == (unit, ())
    assert len(read(open_trace(path))) == survey.kept
