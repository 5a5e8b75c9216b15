"""Lengths: pairs keep their correlation, laws have their moments, what does not fit is cut and counted.

Statistical tests have fixed seeds; a z-test passes below 4.5 (false alarm 7e-6 each).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.lengths import (
    DescribedLengths,
    Law,
    Lengths,
    RecordedPairs,
    clip_lengths,
    parse_law,
    parse_scenario,
)

MAX_Z = 4.5


def recorded(correlation: float) -> RecordedPairs:
    """Pairs whose logarithms correlate."""
    rng = np.random.default_rng(1)
    drawn = np.exp(rng.multivariate_normal([5, 4], [[1, correlation], [correlation, 1]], 3000))
    input_tokens, output_tokens = np.maximum(drawn, 1).astype(np.int64).T
    return RecordedPairs(input_tokens, output_tokens)


@pytest.mark.parametrize("correlation", [-0.8, 0.09, 0.9])
def test_pairs_keep_the_correlation_of_input_and_output(correlation: float) -> None:
    source = recorded(correlation)
    inputs, outputs = source.sample(np.random.default_rng(2), 100_000)
    due = np.corrcoef(np.log(source.input_tokens), np.log(source.output_tokens))[0, 1]
    found = np.corrcoef(np.log(inputs), np.log(outputs))[0, 1]
    # Fisher's transform has a standard error of 1 / sqrt(n).
    assert abs(math.atanh(found) - math.atanh(due)) < MAX_Z / math.sqrt(100_000)


def test_every_drawn_pair_was_recorded_and_all_of_them_come_up() -> None:
    source = RecordedPairs(np.array([1, 2, 3]), np.array([10, 20, 30]))
    inputs, outputs = source.sample(np.random.default_rng(1), 1000)
    assert set(zip(inputs.tolist(), outputs.tolist(), strict=True)) == {(1, 10), (2, 20), (3, 30)}


def mean_and_cv(tokens: FloatArray) -> tuple[float, float]:
    return float(tokens.mean()), float(tokens.std() / tokens.mean())


@pytest.mark.parametrize(
    ("text", "mean", "sd"),
    [
        ("512", 512, 0),
        ("N(480,60)", 480, 60),
        ("U(100,900)", 500, math.sqrt((801**2 - 1) / 12)),
        ("L(400,1.2)", 400, 480),
        ("E(400)", 400, 400),
    ],
)
def test_laws_have_the_moments_that_they_name(text: str, mean: float, sd: float) -> None:
    tokens = parse_law(text).sample(np.random.default_rng(3), 200_000)
    assert tokens.dtype == np.int64
    assert tokens.min() >= 1
    assert abs(tokens.mean() - mean) <= MAX_Z * sd / math.sqrt(len(tokens))
    assert tokens.std() == pytest.approx(sd, rel=0.05)


def test_described_input_and_output_are_independent() -> None:
    inputs, outputs = parse_scenario("N(480,240)/(300,150)").sample(np.random.default_rng(4), 50_000)
    assert abs(np.corrcoef(inputs, outputs)[0, 1]) < MAX_Z / math.sqrt(50_000)
    assert inputs.mean() > outputs.mean()


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("128", Law("fixed", (128,))),
        (" D(128) ", Law("fixed", (128,))),
        ("(128)", Law("fixed", (128,))),
        ("normal(480, 240)", Law("normal", (480, 240))),
        ("uniform(highest=9,lowest=1)", Law("uniform", (1, 9))),
        ("lognormal(mean=400, cv=1.2)", Law("lognormal", (400, 1.2))),
        ("exponential(33.5)", Law("exponential", (33.5,))),
    ],
)
def test_laws_are_read_in_short_and_in_long(text: str, law: Law) -> None:
    assert parse_law(text) == law


@given(
    name=st.sampled_from(["normal", "uniform", "lognormal"]),
    low=st.integers(1, 1000),
    more=st.integers(0, 1000),
)
def test_a_law_reads_what_it_writes(name: str, low: int, more: int) -> None:
    law = parse_law(f"{name}({low},{low + more})")
    assert parse_law(str(law)) == law
    assert parse_law(str(Law("fixed", (low,)))) == Law("fixed", (low,))


def test_a_scenario_repeats_its_law_for_bare_parentheses() -> None:
    assert parse_scenario("N(480,240)/(300,150)") == DescribedLengths(
        Law("normal", (480, 240)), Law("normal", (300, 150))
    )
    assert parse_scenario("U(1,9) / 64") == DescribedLengths(Law("uniform", (1, 9)), Law("fixed", (64,)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a length is a number, N"),
        ("-5", "got '-5'"),
        ("Z(1,2)", r"got 'Z\(1,2\)'"),
        ("N(1", r"got 'N\(1'"),
        ("N(480)", r"the law normal takes mean, sd, got 'N\(480\)'"),
        ("N(1,2,3)", "the law normal takes mean, sd, got '3'"),
        ("N(a,2)", "got 'a'"),
        ("N(nan,2)", "got 'nan'"),
        ("N(sd=1,2)", "the law normal takes mean, sd, got '2'"),
        ("L(mean=1,spread=2)", "the law lognormal takes mean, cv, got 'spread=2'"),
        ("0", "length of the law fixed must lie between 1 and .* got 0"),
        ("N(480,-1)", "sd of the law normal must lie between 0 and .* got -1"),
        ("U(1.5,9)", r"takes whole numbers, got uniform\(1.5,9\)"),
        ("U(9,1)", r"lowest length first, got uniform\(9,1\)"),
        ("E(1e12)", "got 1e\\+12"),
    ],
)
def test_a_law_that_cannot_be_read_is_refused_with_the_text(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_law(text)


@pytest.mark.parametrize("text", ["5", "1/2/3", "N(1,1)/"])
def test_a_scenario_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_scenario(text)


@given(text=st.text(alphabet="NULED()0123456789.,=/ -emancvsd", max_size=20))
def test_any_text_is_a_law_or_an_error_for_people(text: str) -> None:
    try:
        law = parse_law(text)
    except InputError:
        return
    assert law.sample(np.random.default_rng(1), 3).min() >= 1


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="got 0 input and 0 output lengths"):
        RecordedPairs(np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(InputError, match="got 2 input and 1 output lengths"):
        RecordedPairs(np.ones(2, np.int64), np.ones(1, np.int64))
    with pytest.raises(InputError, match="output lengths must be at least 1, got -1 in pair 2"):
        RecordedPairs(np.array([1, 1]), np.array([1, -1]))


def test_the_output_gives_way_first_and_cuts_are_counted() -> None:
    clipped = clip_lengths(np.array([10, 60, 100, 200]), np.array([20, 60, 5, 5]), 100)
    assert clipped.input_tokens.tolist() == [10, 60, 99, 99]
    assert clipped.output_tokens.tolist() == [20, 40, 1, 1]
    assert (clipped.inputs_cut, clipped.outputs_cut) == (2, 3)
    with pytest.raises(InputError, match="--max-model-len"):
        clip_lengths(np.ones(1, np.int64), np.ones(1, np.int64), 1)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=20),
    limit=st.integers(2, 10**6),
)
def test_clipped_lengths_fit_and_what_fitted_is_as_it_was(lengths: list[tuple[int, int]], limit: int) -> None:
    inputs, outputs = np.array(lengths, np.int64).T
    clipped = clip_lengths(inputs, outputs, limit)
    assert (clipped.input_tokens >= 1).all()
    assert (clipped.output_tokens >= 1).all()
    assert (clipped.input_tokens + clipped.output_tokens <= limit).all()
    fitted = inputs + outputs <= limit
    assert (clipped.input_tokens[fitted] == inputs[fitted]).all()
    assert (clipped.output_tokens[fitted] == outputs[fitted]).all()


@pytest.mark.parametrize("lengths", [recorded(0.1), parse_scenario("L(400,1.2)/E(300)")])
def test_the_same_seed_gives_the_same_lengths(lengths: Lengths) -> None:
    first, second = (np.concatenate(lengths.sample(np.random.default_rng(5), 1000)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
