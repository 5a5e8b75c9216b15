"""Rates in pieces are read as written, and options become the arrivals that they name."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.arrivals import Constant, Gamma, Piecewise, Poisson, Segment
from fineserve_shapes.workload.rates import RateOptions, parse_profile


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("10@60", [(60, 10, 10)]),
        ("10@60,50@120", [(60, 10, 10), (120, 50, 50)]),
        ("0..50@2m, 50", [(120, 0, 50), (math.inf, 50, 50)]),
        (".5@1h,1e1..2.5@3s", [(3600, 0.5, 0.5), (3, 10, 2.5)]),
    ],
)
def test_a_profile_is_read_as_it_is_written(text: str, pieces: list[tuple[float, ...]]) -> None:
    assert parse_profile(text, shape=0.5) == Piecewise(tuple(Segment(*piece, 0.5) for piece in pieces))


def test_scaling_a_profile_multiplies_its_rates_and_no_time() -> None:
    assert parse_profile("10..20@60", scale=3) == Piecewise((Segment(60, 30, 60),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "takes pieces such as"),
        ("10@60,", "got '' in"),
        ("-1@3", "'-1@3'"),
        ("10@0", "duration of a rate segment must be positive"),
        ("0@60", "no request at all"),
        ("10,20@60", "only the last piece may stay for ever"),
        ("1..2", "needs one positive rate"),
        ("5@x", "'5@x'"),
    ],
)
def test_a_profile_that_is_none_is_refused_with_the_piece(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_profile(text)


@given(st.text(alphabet="0123456789.@,esmh+- ", max_size=20))
def test_any_text_is_a_profile_or_an_error_for_people(text: str) -> None:
    with suppress(InputError):
        parse_profile(text)


@pytest.mark.parametrize(
    ("options", "arrivals"),
    [
        ({"request_rate": 3.0}, Poisson(3)),
        ({"request_rate": 3.0, "scale": 2.0}, Poisson(6)),
        ({"request_rate": math.inf}, Poisson(math.inf)),
        ({"request_rate": 3.0, "burstiness": 0.25, "scale": 2.0}, Gamma(6, 0.25)),
        ({"request_rate": 3.0, "burstiness": math.inf}, Constant(3)),
        ({"profile": "1@2", "burstiness": 0.25, "scale": 2.0}, Piecewise((Segment(2, 2, 2, 0.25),))),
    ],
)
def test_options_become_the_arrivals_that_they_name(options: dict[str, float], arrivals: object) -> None:
    assert RateOptions(**options).arrivals() == arrivals  # type: ignore[arg-type]


@pytest.mark.parametrize(("profile", "endless"), [(None, True), ("1@2", False), ("1@2,3", True), ("5", True)])
def test_what_has_a_last_piece_with_an_end_ends(profile: str | None, endless: bool) -> None:
    assert RateOptions(profile=profile).endless is endless


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"request_rate": -1.0}, "--request-rate"),
        ({"burstiness": 0.0}, "--burstiness"),
        ({"scale": 0.0}, "--rate-scale"),
        ({"request_rate": math.inf, "burstiness": 2.0}, "no gaps"),
        ({"profile": "1@2", "burstiness": math.inf}, "finite --burstiness"),
    ],
)
def test_bad_rates_are_refused_with_their_flag(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RateOptions(**options).arrivals()  # type: ignore[arg-type]


def test_a_profile_sends_what_its_pieces_say() -> None:
    """Counts per piece over 200 runs; z below 4 each, a false alarm in some 10,000 for either."""
    counts = np.zeros((200, 2))
    for seed in range(200):
        times_s = np.concatenate(list(parse_profile("5@10,0..20@10").blocks(np.random.default_rng(seed))))
        counts[seed] = (times_s < 10).sum(), (times_s >= 10).sum()
    z = (counts.mean(0) - [50, 100]) / np.sqrt(np.array([50, 100]) / 200)
    assert np.abs(z).max() < 4
