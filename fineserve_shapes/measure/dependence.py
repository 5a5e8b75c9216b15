"""Dependence: how far requests that were near each other in time shared their fate.

A burst fills a queue, and a hundred requests in a row are late together: they tell less than a hundred requests by
themselves. Here counts by block of time go in, and what they are worth comes out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.measure.quantiles import student_over_normal

FEWEST_BLOCKS = 12
"""Blocks are joined, two by two, as long as so many are left."""
FALSE_ALARMS = 0.1
"""How often independent requests are taken for dependent ones, at most; the price is a bound that is a little wider."""
_BATCHES, _BATCH = 8, 25
_SEED = 20_259


def effective(marked: FloatArray, totals: FloatArray, confidence: float) -> float:
    """How many independent requests these are worth, for a bound on the share of marked ones at this confidence.

    Parameters
    ----------
    marked, totals : shape (b,)
        Requests that were marked, and requests, by block of time, in order.

    Notes
    -----
    The share p = sum m / sum n has, by blocks, the variance v = b / (b - 1) * sum (m_j - p n_j)^2 / (sum n)^2, where
    independent requests would have p (1 - p) / sum n. The ratio of the two is the design effect D, and sum n / D the
    effective sample size. It is multiplied with (z / t)^2, the normal's quantile and Student's, since v is itself an
    estimate, and one of few degrees of freedom where few blocks have all the marks (`freedom`). Blocks that are short
    beside what binds requests together do not show it, so neighbours are joined two by two down to 12 blocks, and the
    smallest size counts. It is never more than sum n.

    A single marked request shares its fate with no other: it is as little a sign of heaps as none. Else this holds as far
    as the run shows what binds its requests: blocks of a twelfth of the run must be nearly independent of each other, and
    a state of the server that the run never met is in no figure.

    References
    ----------
    Korn and Graubard, Survey Methodology 24 (1998), for shares near 0 or 1; Cochran, Sampling Techniques, 1977, ch. 9.
    """
    n = float(totals.sum())
    if not _tells(float(marked.sum()), n):
        return n
    found = n
    for m, size in _levels(marked, totals):
        p = float(m.sum()) / n
        excess = max(float(_excess(m[np.newaxis], size, p)[0]), 1.0)
        student = 1 / student_over_normal(confidence, freedom(m - p * size))
        found = min(found, n / excess * student**2)
    return found


def dependent(marked: FloatArray, totals: FloatArray, false_alarms: float = FALSE_ALARMS) -> bool:
    """Whether the marked requests (shape (b,), by block of time) lie in heaps, more than chance would have it.

    A permutation test of the design effect, at all lengths of blocks at once: were requests independent, then which of
    them are marked would be any choice, so the counts are drawn anew, 200 times, from the hypergeometric law. The rate
    of false alarms is at most the one stated. The same counts give the same answer.
    """
    n, m = int(totals.sum()), int(marked.sum())
    if not _tells(m, n) or np.count_nonzero(totals) < 2:
        return False
    rng = np.random.default_rng(_SEED)
    seen = _score(marked[np.newaxis], totals, m / n)[0]
    reached = 0
    for _ in range(_BATCHES):
        drawn = rng.multivariate_hypergeometric(totals.astype(np.int64), m, size=_BATCH, method="marginals")
        reached += int((_score(drawn.astype(np.float64), totals, m / n) >= seen).sum())
        if 1 + reached > false_alarms * (1 + _BATCH * _BATCHES):
            return False  # whatever the rest would say
    return True


def _tells(marked: float, of: float) -> bool:
    """Whether there are requests that could share a fate: two that are marked, and two that are not."""
    return 2 <= marked <= of - 2


def _score(marked: FloatArray, totals: FloatArray, p: float) -> FloatArray:
    """How far each row's design effect lies above 1, in its standard deviations, about, at the length that shows most."""
    scores = [(_excess(m, size, p) - 1) * np.sqrt((len(size) - 1) / 2) for m, size in _levels(marked, totals)]
    return np.asarray(np.max(scores, axis=0))


def _excess(marked: FloatArray, totals: FloatArray, p: float) -> FloatArray:
    """The design effect of each row of counts, shape (rows, b)."""
    b, n = len(totals), totals.sum()
    residuals = np.square(marked - p * totals).sum(axis=1)
    return np.asarray(b / (b - 1) * residuals / (n * p * (1 - p)))


def freedom(residuals: FloatArray) -> float:
    """Degrees of freedom of the mean square of b residuals: that of a chi-square of the same mean and variance.

    2 b / (K - 1) with the residuals' kurtosis K, at most b - 1: for two heaps among 128 blocks about 4. Source:
    Satterthwaite, Biometrics Bulletin 2, 1946.
    """
    b = len(residuals)
    squares = np.square(residuals)
    if not squares.any():  # all blocks have the same share: there are no heaps
        return b - 1
    kurtosis = b * float(np.square(squares).sum()) / float(squares.sum()) ** 2
    return min(b - 1, 2 * b / max(kurtosis - 1, 1e-9))


def _levels(marked: FloatArray, totals: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """The blocks, then neighbours joined, as long as there are enough; blocks without a request do not count."""
    first = True
    while True:
        there = totals > 0
        if np.count_nonzero(there) < (2 if first else FEWEST_BLOCKS):
            return
        yield marked[..., there], totals[there]
        first = False
        if len(totals) % 2:
            marked = np.concatenate([marked, np.zeros((*marked.shape[:-1], 1))], axis=-1)
            totals = np.append(totals, 0.0)
        marked, totals = marked[..., ::2] + marked[..., 1::2], totals[::2] + totals[1::2]
