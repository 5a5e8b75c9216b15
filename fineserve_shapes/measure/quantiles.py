"""Quantiles of the laws that bounds are made of. SciPy is imported when they are asked for: workers have no use for it,
and it takes longer to import than all else."""

from __future__ import annotations

import math


def student(q: float, freedom: float) -> float:
    """The quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(freedom, q))


def student_over_normal(q: float, freedom: float) -> float:
    """How much wider Student's quantile is than the normal one, above the median."""
    from scipy import special

    return student(q, freedom) / float(special.ndtri(q))


def binomial_quantile(q: float, trials: int, chance: float) -> int:
    """The smallest number of successes that is not exceeded with a probability of at least q."""
    from scipy import special

    found = math.ceil(float(special.bdtrik(q, trials, chance)))
    while found > 0 and float(special.bdtr(found - 1, trials, chance)) >= q:  # rounding
        found -= 1
    return found
