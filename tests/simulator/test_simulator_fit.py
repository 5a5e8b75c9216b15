"""Fitting: an engine is found again in what it did; and files that say nothing are refused in one line."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fineserve_shapes import cli
from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.batching import EngineParameters
from fineserve_shapes.simulator.engineflags import flags_of
from fineserve_shapes.simulator.faults import KINDS
from fineserve_shapes.simulator.fitting import (
    Observation,
    OfferedLoad,
    errors,
    figures,
    fit,
    read_observations,
    simulated,
)
from fineserve_shapes.simulator.presets import PRESETS, preset

TRUTH = EngineParameters(
    prefill_s_per_token=3e-4, prefill_fixed_s=4e-3, step_s=0.02, per_sequence_s=1e-3, max_num_seqs=16, jitter=0.1
)


def observe(rate_rps: float, seed: int, requests: int = 300) -> Observation:
    """What the true engine did under Poisson arrivals at a rate."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0 / rate_rps, requests))
    load = OfferedLoad(arrival_s, rng.integers(20, 200, requests), rng.integers(5, 40, requests))
    return Observation(f"{rate_rps:g}/s", load, figures(load, *simulated(TRUTH, load, seed)))


def write_log(path: Path, load: OfferedLoad) -> Path:
    """The same as a request log would have it."""
    ttft_s, tpot_s = simulated(TRUTH, load, 1)
    lines = ["outcome,sent_s,first_token_s,last_token_s,asked_input,input_tokens,output_tokens"]
    for sent_s, prompt, output, first_s, each_s in zip(
        load.arrival_s, load.input_tokens, load.output_tokens, ttft_s, tpot_s, strict=True
    ):
        lines.append(f"ok,{sent_s},{sent_s + first_s},{sent_s + first_s + each_s * (output - 1)},{prompt},,{output}")
    lines.append("timeout,1.0,,,5,,")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_engine_is_found_again_and_predicts_other_rates() -> None:
    """Fitted at two rates it says medians at a third within 10 %, as it was never told of it."""
    limits = EngineParameters(max_num_seqs=16)
    found = fit([observe(2.0, 1), observe(12.0, 2)], limits, rounds=10)
    assert found.error < 0.1
    assert found.parameters.step_s == pytest.approx(TRUTH.step_s, rel=0.1)
    error = errors(found.parameters, observe(6.0, 3))
    assert abs(error["TTFT p50"]) < 0.1
    assert abs(error["TPOT p50"]) < 0.1


def test_the_command_prints_flags_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From request logs and from a curve; what is only checked is said to be."""
    log = write_log(tmp_path / "slow.csv", observe(2.0, 1, 60).load)
    curve = tmp_path / "curve.csv"
    curve.write_text("rate_rps,input_tokens,output_tokens,ttft_ms,tpot_ms\n1,100,20,60,22\n8,100,20,75,29\n")
    assert cli.main(["simulate", "fit", str(log), "--check", str(curve), "--rounds", "3"]) == 0
    output = capsys.readouterr().out
    assert "fineserve simulate --prefill-tokens-per-s " in output
    assert "fitted to slow:\n  TTFT p50 " in output
    assert re.search(r"checked with 8/s:\n  TTFT p50 +75.00 ms seen, simulated [+-]", output)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.txt", "", "neither .parquet nor .jsonl nor .csv"),
        ("missing.csv", None, "cannot read"),
        ("x.csv", "a,b\n1,2\n", "it has no column"),
        ("x.csv", "rate_rps,input_tokens,output_tokens,ttft_ms,tpot_ms\n0,1,1,1,1\n", "are positive"),
        ("x.csv", "outcome,sent_s,first_token_s,last_token_s,asked_input,input_tokens,output_tokens\n", "at least 20"),
    ],
)
def test_files_that_say_nothing_are_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_observations(str(path))


def test_a_request_that_never_fits_is_said() -> None:
    with pytest.raises(InputError, match="does not fit the KV cache"):
        fit([observe(2.0, 1, 30)], EngineParameters(kv_cache_tokens=64))


def test_presets_say_what_they_stand_for_and_are_in_proportion() -> None:
    """More weights take longer per step, more bandwidth less; each holds a context of 128 k tokens at least."""
    assert all(one.stands_for for one in PRESETS.values())
    step_s = {name: preset(name).parameters.step_s for name in PRESETS}
    assert step_s["8b-h100"] < step_s["8b-a100"]
    assert step_s["8b-h100"] < step_s["14b-h100"] < step_s["70b-4xh100"]
    assert all(preset(name).parameters.kv_cache_tokens > 131_072 for name in PRESETS)
    # 16.06 GB at 70 % of 3.35 TB/s, and 2 ms
    assert step_s["8b-h100"] == pytest.approx(8.85e-3, rel=0.01)
    with pytest.raises(InputError, match="no preset 'none'; there are default"):
        preset("none")


def test_flags_say_parameters() -> None:
    assert flags_of(EngineParameters()) == ""
    other = replace(EngineParameters(), step_s=0.02, prefill_s_per_token=1 / 5000, max_num_seqs=8)
    assert flags_of(other) == "--prefill-tokens-per-s 5000 --decode-step-ms 20 --max-num-seqs 8"


def test_the_docs_have_all_faults_and_the_presets_as_they_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    assert [name for name in (*PRESETS, *KINDS) if f"`{name}`" not in text] == []
    for one in {one.stands_for: one for one in PRESETS.values()}.values():
        engine = one.parameters
        row = (
            f"| {one.stands_for} | {1e3 * engine.step_s:.1f} | {1 / engine.prefill_s_per_token:,.0f} "
            f"| {1e6 * engine.context_s_per_token:.3f} | {engine.kv_cache_tokens:,} |"
        )
        assert row in text
