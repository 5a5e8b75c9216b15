"""Seeds: what is drawn from a run's seed, each purpose with a generator of its own.

What one purpose draws does not change with what another does. The numbers are part of every plan and prompt: they stay as
they are, and a new purpose gets a new one.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a generator is for."""

    TOKENS = 0  # of prompts
    WORDS = 1
    SHARED_TOKENS = 2
    ORDER_OF_TEXTS = 3
    SAMPLE_OF_LENGTHS = 4
    SAMPLE_OF_TEXTS = 5
    KEPT_REQUESTS = 6
    PAIRS_OF_LENGTHS = 7


def rng(seed: int, purpose: Purpose) -> np.random.Generator:
    """The generator of a purpose."""
    return np.random.default_rng([seed, int(purpose)])


def sequence(seed: int, purpose: Purpose) -> np.random.SeedSequence:
    """What a generator of the purpose would be seeded with."""
    return np.random.SeedSequence([seed, int(purpose)])
