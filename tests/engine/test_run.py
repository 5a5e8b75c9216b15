"""A run's accounts: what is held against it when it ends."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.measure.fidelity import Limits
from fineserve_shapes.workload.block import Block


def ended(due_s: list[float], end_s: float, limits: Limits) -> Run:
    """A run that ended then, and of which nothing was sent."""
    count = len(due_s)
    ones = np.ones(count, dtype=np.int64)
    block = Block(np.arange(count), np.array(due_s), ones, ones, np.zeros(count, dtype=np.int64))
    run = Run([block], count, Settings(limits=limits), local=True)
    run.start_s = time.perf_counter() - 100.0
    run.end_s = end_s
    run.book.stop()
    run.account_for_the_rest()
    return run


@pytest.mark.parametrize(
    ("due_s", "unsent"),
    [
        ([1.0, 4.5], 2),
        ([4.985, 4.995, 5.0], 1),  # what might still have left in time is no fault
        ([4.995, 5.001, 9.0], 0),  # nor is what was never due
    ],
)
def test_a_row_that_was_due_and_in_time_no_more_is_held_against_the_run(due_s: list[float], unsent: int):
    run = ended(due_s, 5.0, Limits(lag_s=0.010))
    assert run.fidelity()["due_unsent"] == unsent
    assert run.book.ledger["unsent"] == len(due_s)
