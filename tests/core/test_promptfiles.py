"""Prompt files: which texts are taken of them, and the place of what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fineserve_shapes.errors import InputError
from fineserve_shapes.prompts.opening import open_prompts
from fineserve_shapes.workload.dataset import read_texts


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_sharegpt_gives_the_first_human_turn(tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "welcome"}, {"from": "human", "value": " hi "}, {"from": "human", "value": "no"}]
    path = written(tmp_path, [{"conversations": turns}, {"conversation": turns[1:]}, {"conversations": turns[:1]}])

    assert read_texts(path) == ["hi", "hi"]


def test_input_texts_are_read_and_empty_ones_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, [{"input_text": "one", "output_length": 3}, {"input_text": "  "}, {}, {"input_text": "2"}])

    assert read_texts(path) == ["one", "2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1, column 1: not JSON"),
        ('[{"input_text": "a"},\n oops]', "line 2, column 2: not JSON"),
        ({"input_text": "a"}, "holds an object; --dataset-path takes a list"),
        ([], "none of its 0 entries has a text"),
        ([{"text": "a"}, {"input_text": ""}], "none of its 2 entries has a text"),
        ([{"input_text": "a"}, "b"], "entry 1: expected an object, got a string"),
        ([{"input_text": 5}], "entry 0: the text must be a string, got a number"),
        ([{"conversations": ["hi"]}], "entry 0: 'conversations' must be a list of objects"),
    ],
)
def test_an_unusable_prompt_file_is_named_with_the_place(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path, content)

    with pytest.raises(InputError) as caught:
        read_texts(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_prompt_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*missing\.json: No such file.*--dataset-path"):
        read_texts(tmp_path / "missing.json")
    with pytest.raises(InputError, match=r"cannot read .*directory"):
        read_texts(tmp_path)


def test_of_a_large_prompt_file_a_seeded_part_is_used(tmp_path: Path) -> None:
    path = written(tmp_path, [{"input_text": f"w{row} " * 1000} for row in range(1000)])
    first, second = (open_prompts("text", seed=seed, dataset_path=path) for seed in (1, 2))

    assert len(first._ring.content) < 1_100_000  # type: ignore[attr-defined]
    assert first.prompt(0, 50).json != second.prompt(0, 50).json
