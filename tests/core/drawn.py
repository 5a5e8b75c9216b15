"""What the tests of arrivals draw."""

from __future__ import annotations

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.workload.arrivals import Arrivals


def until(arrivals: Arrivals, end_s: float, seed: int = 1) -> FloatArray:
    """The times before end_s."""
    blocks: list[FloatArray] = []
    for block in arrivals.blocks(np.random.default_rng(seed)):
        blocks.append(block)
        if block[-1] >= end_s:
            break
    times_s = np.concatenate(blocks)
    return times_s[times_s < end_s]
