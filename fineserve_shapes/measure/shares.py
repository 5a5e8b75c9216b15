"""Share: what a count says about the share behind it, with confidence.

The bounds are exact for independent trials (Clopper and Pearson, Biometrika 26, 1934) and take counts that are not whole,
which is what an effective sample size makes of trials that hang together (Korn and Graubard, Survey Methodology 24, 1998).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import FloatArray


def upper(marked: npt.ArrayLike, of: npt.ArrayLike, confidence: float) -> FloatArray:
    """The share that is not exceeded with this confidence, where `marked` of `of` trials were marked.

    U solves P(Binomial(of, U) <= marked) = 1 - confidence; 1 where every trial was marked, or there was none.
    """
    x, n = np.broadcast_arrays(np.asarray(marked, dtype=np.float64), np.asarray(of, dtype=np.float64))
    open_above = x < n
    from scipy import special

    found = special.betaincinv(x + 1, np.where(open_above, n - x, 1.0), confidence)
    return np.where(open_above, found, 1.0)


def lower(marked: npt.ArrayLike, of: npt.ArrayLike, confidence: float) -> FloatArray:
    """The share that is reached with this confidence: the upper bound's mirror image."""
    x, n = np.asarray(marked, dtype=np.float64), np.asarray(of, dtype=np.float64)
    return 1.0 - upper(n - x, n, confidence)
