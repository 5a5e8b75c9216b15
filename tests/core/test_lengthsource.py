"""Where lengths come from: recorded pairs, strata, prompt files, laws; each as asked for, or a clear error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload import recordedpairs
from fineserve_shapes.workload.lengths import parse_law
from fineserve_shapes.workload.lengthsource import LengthOptions, open_lengths, parse_strata
from fineserve_shapes.workload.recordedpairs import read_pairs
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

RNG = 7


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two strata, told apart by their lengths; one row without a timestamp and one with a length of 0."""
    rows = [f"{100 + row},{row + 1},,{row},Dense,<10B" for row in range(50)]
    rows += [f"{5000 + row},{row + 1},,{row},MoE,>100B" for row in range(10)]
    rows += ["77,88,,,Dense,<10B", "99,0,,3,Dense,<10B"]
    return write(
        tmp_path / "trace.csv", "input_length,output_length,latency,timestamp,architecture,scale\n" + "\n".join(rows)
    )


def draw(options: LengthOptions, n: int = 4000, **more: object) -> tuple[np.ndarray, np.ndarray]:
    return open_lengths(options, **more).lengths.sample(np.random.default_rng(RNG), n)  # type: ignore[arg-type]


def test_pairs_come_from_every_row_that_has_lengths_with_a_timestamp_or_without(trace: Path) -> None:
    source = read_pairs(trace, TraceOptions())
    inputs, outputs = source.lengths.sample(np.random.default_rng(RNG), 4000)
    drawn = set(zip(inputs.tolist(), outputs.tolist(), strict=True))
    assert drawn == {(100 + r, r + 1) for r in range(50)} | {(5000 + r, r + 1) for r in range(10)} | {(77, 88)}
    assert source.line == "pairs of trace.csv, 61 rows"


def test_a_file_needs_the_two_columns_of_lengths_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "in,out\n5,6\n")
    own = TraceOptions(input_length_column="in", output_length_column="out")
    inputs, outputs = read_pairs(path, own).lengths.sample(np.random.default_rng(RNG), 3)
    assert (inputs.tolist(), outputs.tolist()) == ([5, 5, 5], [6, 6, 6])
    with pytest.raises(InputError, match=r"no column input_length or .* \(--input-length-column\)"):
        read_pairs(path, TraceOptions())


def test_of_a_long_file_a_random_part_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 rows 500 are held; their mean is within 5 standard errors (1 in 2 million) and seeds differ."""
    monkeypatch.setattr(recordedpairs, "PAIRS_HELD", 500)
    monkeypatch.setattr(recordedpairs, "CHUNK_ROWS", 300)
    rows = "\n".join(f"{row + 1},1" for row in range(2000))
    path = write(tmp_path / "x.csv", "input_length,output_length\n" + rows)
    held = []
    for seed in (1, 2):
        pairs = read_pairs(path, TraceOptions(), seed)
        assert pairs.line == "pairs of x.csv, 2,000 rows, of which 500 are held"
        held.append(pairs.lengths.input_tokens)  # type: ignore[attr-defined]
    assert len(set(held[0].tolist())) == 500
    assert abs(held[0].mean() - 1000) < 5 * 577 / np.sqrt(500)
    assert not np.array_equal(*held)


def test_strata_have_their_shares_and_their_own_lengths(trace: Path) -> None:
    """Shares over 4,000 draws within 4 standard errors: 1 in 16,000."""
    inputs, _ = draw(LengthOptions(request_lengths_csv=trace, strata="moe/gt100B=3, Dense/lt10B=1"))
    assert abs((inputs >= 5000).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)
    assert set(inputs[inputs < 5000].tolist()) <= {77, *range(100, 150)}


def test_strata_without_a_file_come_from_the_samples(tmp_path: Path, trace: Path) -> None:
    samples = tmp_path / "replay"
    samples.mkdir()
    for name, length in (("Dense_lt10B", 3), ("MoE_gt100B", 4)):
        write(samples / f"{name}.csv", f"input_length,output_length\n{length},{length}\n")
    inputs, _ = draw(LengthOptions(samples=samples, strata="Dense/<10B=1,MoE/>100B=1"))
    assert set(inputs.tolist()) == {3, 4}
    with pytest.raises(InputError, match=r"no sample of Dense/7B .* Dense_lt10B, MoE_gt100B\); .* \(--strata\)"):
        draw(LengthOptions(samples=samples, strata="Dense/7B=1"))
    with pytest.raises(InputError, match="no row has lengths to draw: 62 filtered out"):
        draw(LengthOptions(request_lengths_csv=trace, strata="Dense/7B=1"))


@pytest.mark.parametrize(
    "text", ["", "MoE=1", "MoE/x", "MoE/x=0", "MoE/x=-1", "MoE/x=nan", "/x=1", "a/b=1,", "a/b=one"]
)
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--strata takes shares"):
        parse_strata(text)


def test_a_stratum_named_twice_is_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        parse_strata("Dense/<10B=1,dense/lt10B=2")


def test_laws_take_the_place_of_either_side_or_of_both(trace: Path) -> None:
    inputs, outputs = draw(LengthOptions(request_lengths_csv=trace, output_law=parse_law("9")))
    assert set(outputs.tolist()) == {9}
    assert inputs.max() >= 5000
    inputs, outputs = draw(LengthOptions(input_law=parse_law("5"), output_law=parse_law("U(2,3)")))
    assert set(inputs.tolist()) == {5}
    assert set(outputs.tolist()) == {2, 3}


@pytest.mark.parametrize("beyond", ["clamp", "drop"])
def test_what_is_drawn_fits_the_context(beyond: str, trace: Path) -> None:
    own = TraceOptions(max_model_len=5004, beyond_max_model_len=beyond)
    for options in (
        LengthOptions(request_lengths_csv=trace, trace=own),
        LengthOptions(input_law=parse_law("U(4000,6000)"), output_law=parse_law("20"), trace=own),
    ):
        inputs, outputs = draw(options)
        assert (inputs + outputs).max() <= 5004
        assert min(inputs.min(), outputs.min()) >= 1
        if beyond == "drop" and options.input_law is not None:
            assert set(outputs.tolist()) == {20}


def test_a_length_beyond_the_context_can_be_an_error() -> None:
    own = TraceOptions(max_model_len=50, beyond_max_model_len="error")
    with pytest.raises(InputError, match="60 and 1 tokens exceed --max-model-len 50"):
        draw(LengthOptions(input_law=parse_law("60"), output_law=parse_law("1"), trace=own))


def prompt_file(path: Path, entries: list[object]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_a_prompt_file_s_entries_have_their_own_lengths_in_pairs(tmp_path: Path) -> None:
    chat = [{"from": "human", "value": "a b c"}, {"from": "gpt", "value": "d e"}, {"from": "human", "value": "f"}]
    path = prompt_file(
        tmp_path / "p.json",
        [
            {"conversations": chat},
            {"input_text": "a b", "output_length": 70},
            {"input_text": "no output length"},
            {"conversation": [{"from": "human", "value": "q"}, {"from": "human", "value": "no answer"}]},
        ],
    )
    inputs, outputs = draw(LengthOptions(dataset=path))
    assert set(zip(inputs.tolist(), outputs.tolist(), strict=True)) == {(3, 2), (2, 70)}
    inputs, outputs = draw(LengthOptions(dataset=path), count=len)  # a tokenizer's count goes before words
    assert set(zip(inputs.tolist(), outputs.tolist(), strict=True)) == {(5, 3), (3, 70)}
    inputs, outputs = draw(LengthOptions(dataset=path, output_law=parse_law("8")))
    assert set(zip(inputs.tolist(), outputs.tolist(), strict=True)) == {(3, 8), (2, 8), (1, 8)}


def test_a_prompt_file_without_output_lengths_asks_for_one(tmp_path: Path) -> None:
    path = prompt_file(tmp_path / "p.json", [{"input_text": "a b"}])
    with pytest.raises(InputError, match=r"no entry has an output length.*\(--output-length says one\)"):
        draw(LengthOptions(dataset=path))


@pytest.mark.parametrize("length", ["x", True, 1.5, 1e300, [1]])
def test_an_output_length_that_is_none_is_refused_with_the_entry(tmp_path: Path, length: object) -> None:
    path = prompt_file(tmp_path / "p.json", [{"input_text": "a"}, {"input_text": "b", "output_length": length}])
    with pytest.raises(InputError, match="entry 1: 'output_length' must be a whole number"):
        draw(LengthOptions(dataset=path))


def test_without_any_source_the_flags_are_named() -> None:
    with pytest.raises(InputError, match="--request-lengths-csv, or --input-length and --output-length"):
        open_lengths(LengthOptions())
