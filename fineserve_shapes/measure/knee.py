"""Knee: where a curve begins to rise steeply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEWEST = 4
LEAST = 0.1


def knee(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The x of the point that lies farthest below the straight line from the first point to the last.

    x ascending, y positive; y is taken as its logarithm, since latencies grow by factors. None: fewer than four points, or
    none that lies below by a tenth of the height. Source: Satopaa et al., Finding a "Kneedle" in a Haystack, 2011.
    """
    if len(x) < FEWEST:
        return None
    at, height = np.asarray(x, dtype=np.float64), np.log(np.asarray(y, dtype=np.float64))
    if at[-1] <= at[0] or height[-1] <= height[0]:
        return None
    below = (at - at[0]) / (at[-1] - at[0]) - (height - height[0]) / (height[-1] - height[0])
    place = int(np.argmax(below))
    return float(at[place]) if below[place] >= LEAST else None
