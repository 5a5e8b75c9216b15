"""What a reader of the series has not seen, against the plain list of all changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.measure.serieschanges import MOST, Changes


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 70))
def test_the_earliest_change_since_any_version_is_that_of_the_plain_list(seconds: list[int], version: int):
    changes = Changes()
    for second in seconds:
        changes.note(second)
    assert changes.version == len(seconds)
    assert changes.since(version) == min(seconds[version:], default=None)


def test_memory_is_bounded_and_who_asks_too_seldom_hears_that_all_has_changed():
    changes = Changes()
    for second in range(100_000):
        changes.note(second)
    assert len(changes._seconds) <= MOST
    assert changes.since(0) == 0
    assert changes.since(99_000) == 99_000
    assert changes.since(100_000) is None
