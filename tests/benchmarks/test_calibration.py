"""The benchmark of calibration: what its table says, and where it is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.calibration import BEGIN, END, MOMENTS, PAGE, SHOWN, join, rows, write
from fineserve_shapes.simulator.fitting import Observation, OfferedLoad


def observation(seen_s: float) -> Observation:
    nothing = np.array([1])
    return Observation("", OfferedLoad(np.zeros(1), nothing, nothing), dict.fromkeys(SHOWN, seen_s))


def test_a_row_has_what_was_measured_what_was_predicted_and_the_error():
    cell = "50.0, 60.0 (+20 %)"
    assert rows({2.0: observation(9.0), 4.0: observation(0.05)}, {4.0: observation(0.06)}) == [
        f"| 4 | {cell} | {cell} | {cell} | {cell} |"
    ]


def test_turns_stand_in_one_log_one_after_the_other():
    sent, never = dict.fromkeys(MOMENTS, 1.5), dict.fromkeys(MOMENTS)
    logs = [f"{json.dumps(sent)}\n{json.dumps(never)}\n", f"{json.dumps(sent)}\n"]
    assert [json.loads(line) for line in join(logs, 70.0).splitlines()] == [sent, never, dict.fromkeys(MOMENTS, 71.5)]


def test_the_table_takes_the_place_of_the_last_one():
    page = PAGE.read_text(encoding="utf-8")
    once = write(page, "a table\n")
    assert f"{BEGIN}\na table\n\n{END}" in once
    assert write(write(page, "another\n"), "a table\n") == once
    assert once.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert once.partition(END)[2] == page.partition(END)[2]
    with pytest.raises(SystemExit, match="no place for the table"):
        write("a page", "a table\n")
