"""What `fineserve trace inspect` counts, says and draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toolruns import DATA, MOE, inspected, run, write

from fineserve_shapes.workload.traces.trace import open_trace


def test_inspect_counts_what_is_there_and_why_rows_are_dropped(tmp_path: Path, capsys: Any) -> None:
    rows = [(1000 * second, second % 7 + 1, 2 * (second % 7 + 1)) for second in range(600)]
    found = inspected(capsys, write(tmp_path / "x.csv", [*rows, ("", 5, 5), (7, 0, 5)]))
    assert (found["rows"], found["kept"], found["timestamp_unit"]) == (602, 600, "ms")
    assert found["dropped"] == {"missing_timestamp": 1, "below_one": 1, "beyond_max_model_len": 0}
    assert found["span_s"] == 599.0
    assert found["rate_rps"] == pytest.approx(600 / 599)
    assert found["gap_cv"] == pytest.approx(0.0)
    assert found["dispersion"] == {"1": pytest.approx(0), "10": pytest.approx(0), "300": None}
    lengths = np.arange(600) % 7 + 1
    assert found["input_tokens"]["mean"] == pytest.approx(lengths.mean())
    assert found["output_tokens"]["p50"] == 2 * np.sort(lengths)[299]
    assert found["length_correlation"] == pytest.approx(1.0)


def test_the_options_of_the_locustfiles_act_on_what_is_inspected(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(second, 10, 10) for second in range(100)])
    found = inspected(
        capsys,
        path,
        "--timestamp-unit",
        "s",
        "--start-at",
        10,
        "--duration",
        50,
        "--time-scale",
        2,
        "--num-prompts",
        20,
    )
    assert (found["kept"], found["outside_slice"], found["requests"], found["span_s"]) == (50, 50, 20, 9.5)


def test_the_text_names_the_same_figures(capsys: Any) -> None:
    assert run("inspect", MOE) == 0
    text = capsys.readouterr().out
    assert "MoE_gt100B.csv: 5,052 rows, 5,052 kept" in text
    assert "mean rate 2.80" in text or "mean rate 2.8" in text


def test_what_a_run_warns_of_is_said_in_text_and_beside_json(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(second, 10, 10) for second in range(100)])
    assert run("inspect", path) == 0
    (warning,) = open_trace(path).opening.warnings
    assert f"warning: {warning}\n" in capsys.readouterr().out
    assert run("inspect", path, "--json") == 0
    output = capsys.readouterr()
    assert (json.loads(output.out)["warnings"], output.err) == ([warning], f"warning: {warning}\n")


@pytest.mark.parametrize("ending", [".png", ".html"])
def test_a_plot_is_a_picture_or_a_page(tmp_path: Path, capsys: Any, ending: str) -> None:
    picture = tmp_path / f"x{ending}"
    assert run("inspect", MOE, "--plot", picture) == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG" if ending == ".png" else b"<!doctype html>")
    assert ending == ".png" or b"<svg" in content


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.exists(), reason="no published traces beside the checkout")
@pytest.mark.parametrize(
    ("name", "span_s", "rate_rps"),
    [
        ("azure/AzureLLMInferenceTrace_code.csv", 3436, 2.567),
        ("mooncake/conversation_trace_head.jsonl", 987, 3.04),
        ("fineserve/replay/Dense_30to100B.csv", 28797, 0.7307),
    ],
)
def test_published_traces_need_no_flags(capsys: Any, name: str, span_s: float, rate_rps: float) -> None:
    found = inspected(capsys, DATA / name)
    assert found["span_s"] == pytest.approx(span_s, rel=0.001)
    assert found["rate_rps"] == pytest.approx(rate_rps, rel=0.001)
    assert found["warnings"] == []
