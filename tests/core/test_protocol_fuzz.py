"""A small run of the fuzzing that `make fuzz` does at length."""

from __future__ import annotations

import random

from fuzzing import check, sources
from thorough import examples

CASES = examples(4000)


def test_no_bytes_bring_the_parsers_down_or_make_them_keep_much() -> None:
    """And the same bytes give the same events, however they are cut."""
    bodies = sources()
    ends = {check(random.Random(f"test/{case}"), bodies) for case in range(CASES)}
    assert {"ok", "stream_error", "http_error", "no HTTP"} <= ends
