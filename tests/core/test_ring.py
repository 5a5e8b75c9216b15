"""The ring of pieces, against a slow twin that goes piece by piece; and the words that are its pieces."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.prompts.ring import Ring
from fineserve_shapes.prompts.words import WORDS


@given(costs=st.lists(st.integers(1, 5), min_size=1, max_size=8), place=st.integers(0, 2**32), cost=st.integers(0, 60))
def test_a_run_is_what_going_piece_by_piece_gives(costs: list[int], place: int, cost: int) -> None:
    pieces = [f"<{number}:{piece_cost}>" for number, piece_cost in enumerate(costs)]
    at, text, spent = place % len(pieces), "", 0
    while spent + costs[at] <= cost:
        text, spent, at = text + pieces[at], spent + costs[at], (at + 1) % len(pieces)

    assert Ring(pieces, np.array(costs)).run(place, cost) == (text, spent)


def test_the_words_are_distinct_and_enough_for_a_byte_each() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 256
