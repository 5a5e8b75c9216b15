"""Other load generators can use the simulator: each sends forty requests, and all forty are answered in full.

Each needs an environment of its own, which `make clients` installs; without it the test is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.environments import Missing, programs
from benchmarks.loadgenerators import TOOLS, Target, Tool
from benchmarks.processtree import end
from benchmarks.sidebyside import Load
from fineserve_shapes.simulator.process import SimulatorProcess

LOAD = Load(rate_rps=20, tokens=64, seconds=2)
FORTY = [LOAD.tokens] * LOAD.requests
MOST_S = 240
"""Beside others at work some of them take a minute to start."""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer of words and bytes, as a folder that AutoTokenizer loads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="</s>", eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.mark.timeout(MOST_S + 30)
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_all_forty_are_answered_in_full_by_both_counts(
    tool: Tool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    try:
        folder = programs(tool)
    except Missing as missing:
        pytest.skip(str(missing))
    model = request.getfixturevalue("tokenizer_folder")
    truth = tmp_path / "truth.jsonl"
    with SimulatorProcess(model=model, ttft_ms=50, itl_ms=5, ground_truth=truth) as simulator:
        run(tool, tool.command(folder, Target(simulator.url, model), LOAD), tmp_path)
    assert list(tool.read(tmp_path).tokens) == FORTY
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [(row["status"], row["finish_reason"], row["aborted"]) for row in rows] == [(200, "length", False)] * len(
        rows
    )
    assert [row["output_tokens"] for row in rows] == [row["max_tokens"] for row in rows]
    assert [row["output_tokens"] for row in rows[tool.tries :]] == FORTY


def run(tool: Tool, command: list[object], folder: Path) -> None:
    """Run it to its end, with the last of what it wrote where it fails."""
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env={**os.environ, **tool.variables},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        code = process.wait(MOST_S)
    finally:
        end(process)
    assert code == 0, output.read_text(errors="replace")[-2000:]
