"""A run's accounts: what is held against it when it ends."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.measure.fidelity import Limits
from fineserve_shapes.measure.names import Names
from fineserve_shapes.workload.block import Block


def ended(due_s: list[float], end_s: float, settings: Settings) -> Run:
    """A run that ended then, and of which nothing was sent; its streams take turns."""
    count = len(due_s)
    ones = np.ones(count, dtype=np.int64)
    block = Block(np.arange(count), np.array(due_s), ones, ones, np.arange(count) % len(settings.names.names))
    run = Run([block], count, settings, local=True)
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
    run = ended(due_s, 5.0, Settings(limits=Limits(lag_s=0.010)))
    assert run.fidelity()["due_unsent"] == unsent
    assert run.book.ledger["unsent"] == len(due_s)


def test_each_stream_of_a_mix_is_held_to_its_own_limits():
    limits = (Limits(lag_s=0.010), Limits(lag_s=1.0))
    names = Names(("quick", "patient"), mixed=True)
    run = ended([4.5, 4.5, 4.995], 5.0, Settings(limits_of_streams=limits, names=names))
    of_streams = run.fidelity_of_streams()
    assert {name: of_streams[name]["due_unsent"] for name in names.names} == {"quick": 1, "patient": 0}
    assert run.fidelity()["due_unsent"] == 1
