"""Words of others in messages: bounded, on one line, and without what a terminal would obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.text import clipped, shorten


@given(text=st.text(max_size=60), limit=st.integers(1, 40), rule=st.sampled_from([clipped, shorten]))
def test_a_message_is_bounded_and_printable_whatever_the_text(text: str, limit: int, rule):
    assert len(rule(text, limit)) <= limit
    assert rule(text, limit).isprintable()


@given(text=st.text(st.characters(categories=["L", "N", "P"]), max_size=40))
def test_a_plain_text_that_fits_stays_as_it_is(text: str):
    assert clipped(text, 40) == shorten(text, 40) == text


@pytest.mark.parametrize(
    ("text", "as_it_stands", "on_one_line"),
    [
        ("a  b", "a  b", "a b"),
        ("a\n\tb", "a??b", "a b"),
        ("\x1b[31mred", "?[31mred", "?[31mred"),
        ("123456789", "1234567…", "1234567…"),
    ],
)
def test_only_one_of_the_two_keeps_white_space(text: str, as_it_stands: str, on_one_line: str):
    """A name in a file is quoted as it stands; a server's words become one line."""
    assert (clipped(text, 8), shorten(text, 8)) == (as_it_stands, on_one_line)
