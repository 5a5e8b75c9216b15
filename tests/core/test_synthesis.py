"""Plans from options: the same seed the same plan, streams apart, ends where they are said to be."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.dispersion import BurstinessMeter
from fineserve_shapes.options import PARAMETRIC, POISSON, Option
from fineserve_shapes.planning.synthesis import ended, parametric, poisson
from fineserve_shapes.values import Values
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.plan import Plan

DATASETS = Path(__file__).parents[2] / "datasets"


def values(options: tuple[Option, ...], **given: object) -> Values:
    defaults = {option.dest: False if option.default is None else option.default for option in options}
    return Values(Namespace(**{**defaults, **given}))


def poisson_plan(**given: object) -> Plan:
    return poisson(values(POISSON, **given), 10.0, DATASETS).plan


def parametric_plan(**given: object) -> Plan:
    return parametric(values(PARAMETRIC, **given), DATASETS).plan


def rows(plan: Plan, n: int = 5000) -> Block:
    blocks = list(plan.limited(n))
    return Block(*(np.concatenate([getattr(b, name) for b in blocks]) for name in Block.__slots__[:5]))


@pytest.mark.parametrize("make", [poisson_plan, parametric_plan])
def test_the_same_seed_gives_the_same_plan_and_another_seed_another(make) -> None:
    one, same, other = make(seed="5"), make(seed="5"), make(seed="6")
    for name in ("due_s", "input_tokens", "output_tokens"):
        assert getattr(rows(one), name).tobytes() == getattr(rows(same), name).tobytes()
        assert getattr(rows(one), name).tobytes() != getattr(rows(other), name).tobytes()
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_lengths_have_a_stream_of_their_own() -> None:
    """Other lengths leave the arrivals as they are."""
    assert np.array_equal(rows(poisson_plan()).due_s, rows(poisson_plan(input_length="L(300,1)")).due_s)


def test_an_endless_plan_says_what_is_missing_unless_a_default_ends_it() -> None:
    given = values(POISSON)
    plan = poisson(given, 10.0, DATASETS).plan
    assert plan.endless
    with pytest.raises(InputError, match=r"--run-time \(-t\) or --num-prompts"):
        ended(plan, given, None)
    assert ended(plan, given, 50).requests == 50
    assert ended(plan, values(POISSON, num_prompts="7"), 50).requests == 7
    assert ended(plan, values(POISSON, run_time=60), 50).endless  # the session cuts it
    profile = poisson(values(POISSON, rate_profile="10@5"), 10.0, DATASETS).plan
    assert not ended(profile, given, 50).endless


def test_a_plan_cut_by_time_knows_its_size() -> None:
    plan = parametric_plan(model_class="Dense_lt10B").between(0.0, 60.0)
    assert plan.requests == sum(len(block) for block in plan)
    assert plan.span_s is not None
    assert 55 < plan.span_s < 60


def test_a_cut_that_holds_very_many_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fineserve_shapes.workload.plan.MEASURED_ROWS", 5000)
    plan = poisson_plan().between(0.0, 10_000.0)
    assert plan.requests is None
    assert plan.span_s is None
    assert plan.between(0.0, 100.0).requests is not None


def test_an_infinite_rate_needs_a_number_of_requests() -> None:
    with pytest.raises(InputError, match="--num-prompts"):
        poisson_plan(request_rate="inf")
    plan = poisson_plan(request_rate="inf", num_prompts="30").limited(30)
    assert (plan.requests, plan.span_s) == (30, 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"request_rate": "0"}, "--request-rate must be positive"),
        ({"request_rate": "x"}, "--request-rate must be a number"),
        ({"request_rate": "1", "rate_profile": "1@2"}, "not both"),
        ({"burstiness": "1", "cv": "1"}, "say the same"),
        ({"cv": "-1"}, "--cv"),
        ({"input_length": "many"}, "--input-length: "),
        ({"keep_fraction": "0"}, "--keep-fraction"),
        ({"rate_scale": "-2"}, "--rate-scale"),
        ({"request_lengths_csv": "/nowhere.csv"}, "no such file"),
    ],
)
def test_bad_values_are_refused_with_their_flag(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        poisson_plan(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model_class": "Dense_7B"}, "classes there are: Dense_10to30B, Dense_30to100B, Dense_lt10B, MoE_gt100B"),
        ({"model_class": "../x"}, "--model-class"),
        ({"gamma_params_csv": "/nowhere.csv"}, "--gamma-params-csv"),
        ({"parametric_window_seconds": "0"}, "--parametric-window-seconds"),
        ({"parametric_jitter_ratio": "-1"}, "--parametric-jitter-ratio"),
        ({"parametric_extension_mode": "x"}, "--parametric-extension-mode"),
        ({"parametric_independent_windows": True}, "model_sample"),
        ({"parametric_nb_json": "/nowhere.json"}, "--parametric-nb-json"),
        ({"nb_mode": "x"}, "--nb-mode"),
        ({"gamma_fitted_to": "x"}, "--gamma-fitted-to"),
        ({"rate_scale": "0"}, "--rate-scale"),
    ],
)
def test_bad_parameters_are_refused_with_their_flag(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parametric_plan(**given)


def hour(**given: object) -> tuple[float, float]:
    """Mean rate and dispersion at 1 s of the first hour, without jitter."""
    meter = BurstinessMeter()
    for block in parametric_plan(parametric_jitter_ratio="0", **given).between(0.0, 3600.0):
        meter.add(block.due_s)
    found = meter.result(3600.0)
    assert found.rate_rps is not None
    assert found.dispersion[1] is not None
    return found.rate_rps, found.dispersion[1]


def test_bursts_are_automatic_for_the_one_class_and_their_options_do_as_they_say() -> None:
    """Rates of an hour at 150/s: one standard error is about 0.6 %, so 3 % is 5 of them."""
    rate, dispersion = hour(model_class="Dense_lt10B")
    without, plain = hour(model_class="Dense_lt10B", disable_parametric_nb=True)
    kept, _ = hour(model_class="Dense_lt10B", gamma_fitted_to="requests")
    _, slotted = hour(model_class="Dense_lt10B", nb_mode="slot")
    scaled, _ = hour(model_class="Dense_lt10B", rate_scale="0.5")
    thinned, thin = hour(model_class="Dense_lt10B", keep_fraction="0.5")
    assert rate / without == pytest.approx(2.6285, rel=0.03)
    assert kept == pytest.approx(without, rel=0.03)
    assert scaled == pytest.approx(rate / 2, rel=0.05)
    assert thinned == pytest.approx(rate / 2, rel=0.03)
    assert slotted < plain < thin < dispersion  # slots lose the gaps' burstiness, thinning some of it


def test_another_class_has_bursts_where_a_file_is_named() -> None:
    nb = str(DATASETS / "Parametric" / "nb" / "Dense_lt10B_nb.json")
    rate, _ = hour(model_class="MoE_gt100B", parametric_nb_json=nb)
    without, _ = hour(model_class="MoE_gt100B")
    assert rate / without == pytest.approx(2.6285, rel=0.12)  # 10,000 bursts, CV 1.7


def test_a_bursty_class_without_its_file_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "gamma").mkdir()
    (tmp_path / "gamma" / "Dense_lt10B_gamma_5min.csv").write_text("gamma_shape,gamma_scale\n0.3,60\n")
    with pytest.raises(InputError, match="--disable-parametric-nb does without"):
        parametric_plan(model_class="Dense_lt10B", parametric_data_root=str(tmp_path))
    plan = parametric_plan(model_class="Dense_lt10B", parametric_data_root=str(tmp_path), disable_parametric_nb=True)
    assert plan.limited(10).requests == 10


@pytest.mark.parametrize("place", [".", "Parametric"])
def test_parameters_are_found_by_any_class_name_and_window_in_the_root_or_below(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place / "gamma"
    folder.mkdir(parents=True)
    (folder / "my[1]_gamma_60s.csv").write_text("gamma_shape,gamma_scale\n1,100\n")
    plan = parametric_plan(model_class="my[1]", parametric_data_root=str(tmp_path), parametric_window_seconds="60")
    assert plan.limited(10).requests == 10


@pytest.mark.parametrize("independent", [False, True])
def test_sampled_windows_go_on_without_end(independent: bool) -> None:
    plan = parametric_plan(parametric_extension_mode="model_sample", parametric_independent_windows=independent)
    week_s = 7 * 86_400.0
    requests = sum(len(block.due_s) for block in plan.between(0.0, week_s))
    assert requests / week_s == pytest.approx(2.87, rel=0.25)


def test_lengths_come_from_the_class_s_own_sample() -> None:
    synthesis = parametric(values(PARAMETRIC, model_class="Dense_10to30B"), DATASETS)
    assert "pairs of Dense_10to30B.csv" in synthesis.lines[1]
    assert synthesis.plan.limited(5).description()["lengths"] == synthesis.lines[1]


def test_a_million_requests_are_planned_in_little_time_and_memory() -> None:
    """0.5 s of CPU for a million arrivals is the target; the plan adds lengths to them."""
    assert poisson_plan(request_rate="1000").limited(1_000_000).requests == 1_000_000
