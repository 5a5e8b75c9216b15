"""Arrow columns: as pyarrow makes them, and without pandas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.measure.arrowcolumns import column

FLOATS = st.floats(width=64)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def as_pyarrow_has_it(values: object, kind: pa.DataType) -> pa.Array:
    return pa.array(values, type=kind, from_pandas=True)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.bool_(), st.booleans()),
        (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
        (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        (pa.float64(), FLOATS),
        (pa.string(), TEXTS),
        (pa.list_(pa.float64()), st.lists(FLOATS)),
    ],
    ids=str,
)
@given(data=st.data())
def test_a_list_with_gaps_is_what_pyarrow_makes_of_it(
    kind: pa.DataType, values: st.SearchStrategy, data: st.DataObject
):
    given_values = data.draw(st.lists(st.none() | values))
    made = column(given_values, kind)
    made.validate(full=True)
    assert made.equals(as_pyarrow_has_it(given_values, kind))
    assert made.null_count == as_pyarrow_has_it(given_values, kind).null_count


@pytest.mark.parametrize(
    ("kind", "dtype", "values"),
    [
        (pa.bool_(), "?", st.booleans()),
        (pa.int32(), "<i4", st.integers(-(2**31), 2**31 - 1)),
        (pa.int64(), "<i8", st.integers(-(2**63), 2**63 - 1)),
        (pa.float64(), "<f8", FLOATS),
    ],
    ids=str,
)
@given(data=st.data())
def test_a_field_of_records_is_what_pyarrow_makes_of_it(
    kind: pa.DataType, dtype: str, values: st.SearchStrategy, data: st.DataObject
):
    """Fields lie between others in memory."""
    drawn = data.draw(st.lists(values))
    records = np.zeros(len(drawn), dtype=[("before", "?"), ("field", dtype)])
    records["field"] = drawn
    made = column(records["field"], kind)
    made.validate(full=True)
    assert made.equals(as_pyarrow_has_it(records["field"], kind))


def test_a_log_does_not_bring_pandas_in(tmp_path):
    """It takes a third of a second, which a run in its first has no time for."""
    script = """
import pathlib, sys
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.requestlog import RequestLog
import numpy as np
for name in ("a.parquet", "a.csv", "a.jsonl"):
    log = RequestLog(pathlib.Path(name), "run", token_times=True)
    at = np.arange(3)
    log.write_lost("unsent", at, at, 0 * at, 1.0 * at, at, at)
    log.close()
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
