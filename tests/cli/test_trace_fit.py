"""`fineserve trace fit` and `synth`: what is synthesised is fitted back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toolruns import DATA, DATASETS, MOE, inspected, run, write

from fineserve_shapes.workload.bursts import read_nb


def test_synth_makes_the_class_s_rate_in_the_published_form(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "day.parquet"
    assert run("synth", "--model-class", "Dense_lt10B", "--duration", 600, "--seed", 3, "--out", out) == 0
    assert "150 requests" not in capsys.readouterr().out
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["input_length", "output_length", "latency", "timestamp", "architecture", "scale"]
    assert set(frame.scale) == {"lt10B"}
    assert frame.timestamp.max() < 600e6
    assert (
        run("synth", "--model-class", "Dense_lt10B", "--duration", 600, "--seed", 3, "--out", tmp_path / "b.csv") == 0
    )
    again = pd.read_csv(tmp_path / "b.csv")
    assert again.timestamp.tolist() == frame.timestamp.tolist()
    assert again.output_length.tolist() == frame.output_length.tolist()


@pytest.mark.parametrize("name", ["Dense_10to30B", "Dense_30to100B", "MoE_gt100B"])
def test_a_day_that_is_synthesised_is_fitted_back(tmp_path: Path, capsys: Any, name: str) -> None:
    """|z| below 4 on log shape and log scale in 99 % of the windows (by chance: 99.99 %)."""
    day = tmp_path / "day.parquet"
    given = ("--model-class", name, "--parametric-jitter-ratio", 0, "--duration", 86_400)
    assert run("synth", *given, "--out", day) == 0
    capsys.readouterr()
    assert run("fit", day, "--out", tmp_path / "fit", "--name", name, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["goodness"]["gamma_fitted_to"] == "requests"
    assert report["misfit"] is None
    fitted = pd.read_csv(tmp_path / "fit" / "gamma" / f"{name}_gamma_5min.csv")
    true = pd.read_csv(DATASETS / "Parametric" / "gamma" / f"{name}_gamma_5min.csv")
    assert len(fitted) == 288
    # median standard errors stand for those of each window, which differ little
    for column, error in (("gamma_shape", "median_se_log_shape"), ("gamma_scale", "median_se_log_scale")):
        z = np.log(fitted[column] / true[column]) / report["goodness"][error]
        assert (z.abs() < 5).mean() >= 0.99


def test_what_is_fitted_is_found_by_its_name_and_keeps_rate_and_lengths(tmp_path: Path, capsys: Any) -> None:
    assert run("fit", MOE, "--out", tmp_path / "fit", "--name", "mine") == 0
    out = tmp_path / "s.csv"
    given = ("--parametric-data-root", tmp_path / "fit", "--parametric-jitter-ratio", 0, "--duration", 1800)
    assert run("synth", "--model-class", "mine", *given, "--out", out) == 0
    was, now = inspected(capsys, MOE), inspected(capsys, out)
    assert now["rate_rps"] == pytest.approx(was["rate_rps"], rel=0.06)  # 5,000 requests of CV 1.7: 2.4 %
    for side in ("input_tokens", "output_tokens"):
        assert now[side]["p50"] == pytest.approx(was[side]["p50"], rel=0.1)


def test_bursts_are_found_where_time_stamps_are_equal(tmp_path: Path, capsys: Any) -> None:
    """Bursts of 1 or 3 at exact instants, in microseconds: found, fitted, and the rate kept."""
    rng = np.random.default_rng(2)
    instants = np.rint(1e6 * np.cumsum(rng.gamma(0.5, 0.4, 5000))).astype(int)
    times = np.repeat(instants, rng.choice([1, 3], 5000))
    path = write(tmp_path / "x.csv", [(time, 10, 10) for time in times.tolist()])
    assert run("fit", path, "--out", tmp_path / "fit", "--timestamp-unit", "us", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["goodness"]["gamma_fitted_to"] == "bursts"
    nb = read_nb(tmp_path / "fit" / "nb" / "x_nb.json")
    assert nb.moments()[0] == pytest.approx(2.0, rel=0.02)
    assert report["model"]["rate_rps"] == pytest.approx(report["trace"]["rate_rps"], rel=0.05)
    assert run("fit", path, "--out", tmp_path / "f2", "--timestamp-unit", "us", "--gamma-fitted-to", "requests") == 0


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.exists(), reason="no published traces beside the checkout")
def test_the_real_trace_is_fitted_and_the_misfit_at_short_times_is_told(tmp_path: Path, capsys: Any) -> None:
    """Mean rate and length quantiles agree within 5 %."""
    assert run("fit", DATA / "fineserve" / "replay" / "Dense_30to100B.csv", "--out", tmp_path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert "are no gamma" in report["misfit"]
    trace, model = report["trace"], report["model"]
    assert model["rate_rps"] == pytest.approx(trace["rate_rps"], rel=0.05)
    for side in ("input_tokens", "output_tokens"):
        for quantile in ("p25", "p50", "p75", "p90", "p99"):
            assert model[side][quantile] == pytest.approx(trace[side][quantile], rel=0.05)
