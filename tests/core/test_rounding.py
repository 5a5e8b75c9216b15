"""Numbers as a person reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.rounding import or_dash, rounded


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (999.4, "999"), (999.6, "1,000"), (1000.4, "1,000"), (1234567.8, "1,234,568"),
     (0.0001, "0.0001"), (2e-8, "<0.0001"), (-2e-8, ">-0.0001"), (-0.5, "-0.5"), (-999.6, "-1,000"), (3, "3")],
)  # fmt: skip
def test_three_digits_and_whole_numbers_from_a_thousand_on(value: float, text: str):
    assert rounded(value) == or_dash(value) == text


def test_more_digits_a_sign_and_what_was_not_measured():
    assert (rounded(12.3456, 4), rounded(9999.9, 4), rounded(5.0, sign="+"), rounded(999.6, sign="+"), or_dash(None)) == (
        "12.35", "10,000", "+5", "+1,000", "-",
    )  # fmt: skip


@given(st.floats(-1e12, 1e12), st.integers(3, 5))
def test_there_is_no_exponent_and_the_value_is_near(value: float, digits: int):
    text = rounded(value, digits)
    assert "e" not in text
    if "0.0001" not in text:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=10.0 ** (1 - digits))
