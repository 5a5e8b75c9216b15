"""Prompts of token ids: ordinary ones, exactly as many as are asked for, no two prompts alike from the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained import each_kind

from fineserve_shapes.errors import InputError
from fineserve_shapes.prompts.opening import open_prompts
from fineserve_shapes.prompts.tokenids import TokenIds, default_ids
from fineserve_shapes.prompts.tokenizer import load_tokenizer

BLOCK = 16  # tokens of a block of vLLM's prefix cache
PLAIN_IDS = open_prompts("token_ids", seed=3)


@given(index=st.integers(0, 2**40), input_tokens=st.integers(1, 3000))
def test_token_ids_are_exact_and_ordinary(index: int, input_tokens: int) -> None:
    prompt = PLAIN_IDS.prompt(index, input_tokens)

    assert len(prompt.value) == prompt.tokens == input_tokens
    assert set(prompt.value) <= set(range(1000, 4000))


def test_a_hundred_thousand_prompts_share_no_first_cache_block() -> None:
    source = open_prompts("token_ids", seed=11)

    assert len({source.prompt(index, BLOCK).json for index in range(100_000)}) == 100_000


def test_they_differ_within_three_ids_already() -> None:
    source = open_prompts("token_ids", seed=11)

    assert len({source.prompt(index, 3).json for index in range(20_000)}) == 20_000


def test_token_ids_beyond_the_table_go_round() -> None:
    assert len(PLAIN_IDS.prompt(0, 300_000).value) == 300_000


@pytest.mark.parametrize("vocab_size", [32, 500, 4096, 128_000])
def test_default_ids_lie_inside_the_vocabulary_and_above_its_bottom(vocab_size: int) -> None:
    ids = default_ids(vocab_size)

    assert ids.max() == vocab_size - 1
    assert ids.min() == min(1000, vocab_size // 4)


def test_a_tiny_vocabulary_still_gives_distinct_first_blocks() -> None:
    source = TokenIds(1, default_ids(32))

    assert len({source.prompt(index, BLOCK).json for index in range(10_000)}) == 10_000


def test_a_vocabulary_too_small_is_an_error() -> None:
    with pytest.raises(InputError, match="at least 16 ordinary ids in the vocabulary, got 3"):
        open_prompts("token_ids", seed=1, vocab_size=3)


@each_kind
def test_token_ids_of_a_tokenizer_are_never_special(kind: str, tokenizer_dirs: dict[str, str]) -> None:
    source = open_prompts("token_ids", seed=1, tokenizer=tokenizer_dirs[kind])
    used = {token for index in range(50) for token in source.prompt(index, 500).value}

    assert source.form == "token_ids"
    assert used.isdisjoint({0, 1, 2})


def test_token_ids_of_a_dataset_are_its_texts_and_end_in_the_suffix(
    tokenizer_dirs: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"input_text": "the sun and the sea"}]))
    source = open_prompts(
        "token_ids", seed=1, tokenizer=tokenizer_dirs["byte_level"], dataset_path=path, prompt_suffix=" So?"
    )
    tokenizer = load_tokenizer(tokenizer_dirs["byte_level"])
    suffix, text = tokenizer.ids(" So?"), tokenizer.ids("the sun and the sea")
    ids = source.prompt(0, 60).value

    assert len(ids) == 60
    assert ids[-len(suffix) :] == suffix
    assert ids[4 : 4 + len(text)] == text  # after a head: 1,500 ids are too few for one of three
    assert ids[4 + len(text) : 4 + 2 * len(text)] == text


def test_special_tokens_that_a_text_spells_out_are_left_out(tokenizer_dirs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"input_text": "</s> one <s>"}, {"input_text": "<s>"}]))
    source = open_prompts("token_ids", seed=1, tokenizer=tokenizer_dirs["byte_level"], dataset_path=path)

    assert set(source.prompt(0, 60).value).isdisjoint({0, 1, 2})


def test_texts_without_any_token_are_an_error(tokenizer_dirs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"input_text": "<s>"}]))

    with pytest.raises(InputError, match=r"knows no token of the prompt file's texts \(--dataset-path\)"):
        open_prompts("token_ids", seed=1, tokenizer=tokenizer_dirs["byte_level"], dataset_path=path)
