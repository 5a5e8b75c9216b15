"""Prompts of text: exactly as long as is asked by the tokenizer, or by words where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained import KINDS, each_kind, server_tokens

from fineserve_shapes.errors import InputError
from fineserve_shapes.prompts.opening import Form, open_prompts
from fineserve_shapes.prompts.tokenizer import load_tokenizer

BLOCK = 16  # tokens of a block of vLLM's prefix cache
# Short ones densely, where special tokens and heads matter, and longer ones sampled.
LENGTHS = [*range(1, 30), *np.random.default_rng(0).integers(30, 2000, 12).tolist(), 2000]


@pytest.mark.parametrize("suffix", ["", " Answer now.", "!"])
@pytest.mark.parametrize("form", ["text", "chat"])
def test_without_a_tokenizer_a_token_is_a_word(form: Form, suffix: str) -> None:
    source = open_prompts(form, seed=5, prompt_suffix=suffix)

    for index, input_tokens in enumerate(range(3, 400, 7)):
        value = source.prompt(index, input_tokens).value
        text = value if form == "text" else value[0]["content"]
        assert len(text.split()) == input_tokens
        assert text.endswith(suffix)


def test_without_a_tokenizer_the_source_says_that_lengths_are_approximate() -> None:
    assert "--tokenizer" in (open_prompts("text", seed=1).inexact or "")
    assert open_prompts("token_ids", seed=1).inexact is None


def test_a_dataset_without_a_tokenizer_is_sent_as_text(sharegpt: Path) -> None:
    source = open_prompts("token_ids", seed=1, dataset_path=sharegpt)

    assert source.form == "text"
    assert source.inexact is not None


@each_kind
@pytest.mark.parametrize("suffix", ["", "\nAnswer:"])
@pytest.mark.parametrize("from_file", [False, True], ids=["synthetic", "dataset"])
@pytest.mark.parametrize("form", ["text", "chat"])
def test_every_text_encodes_to_exactly_the_asked_length(
    kind: str, form: Form, from_file: bool, suffix: str, tokenizer_dirs: dict[str, str], sharegpt: Path
) -> None:
    """Down to the shortest there is: special tokens, template and suffix around one word."""
    source = open_prompts(
        form,
        seed=2,
        tokenizer=tokenizer_dirs[kind],
        dataset_path=sharegpt if from_file else None,
        prompt_suffix=suffix,
    )
    shortest = source.prompt(0, 1).tokens

    for index, input_tokens in enumerate(LENGTHS):
        prompt = source.prompt(index, input_tokens)
        assert prompt.tokens == max(input_tokens, shortest)
    assert shortest < 25


@pytest.mark.parametrize(
    ("kind", "form"), [*((kind, "text") for kind in KINDS), *((kind, "chat") for kind in KINDS if kind != "words")]
)
def test_the_count_is_the_servers(kind: str, form: Form, tokenizer_dirs: dict[str, str]) -> None:
    source = open_prompts(form, seed=2, tokenizer=tokenizer_dirs[kind])

    for index in range(5):
        prompt = source.prompt(index, 100 + 250 * index)
        assert len(server_tokens(tokenizer_dirs[kind], source, prompt.value)) == prompt.tokens == 100 + 250 * index


@each_kind
def test_texts_differ_in_their_first_cache_block(kind: str, tokenizer_dirs: dict[str, str]) -> None:
    source = open_prompts("text", seed=4, tokenizer=tokenizer_dirs[kind])
    encode = load_tokenizer(tokenizer_dirs[kind]).ids
    blocks = {tuple(encode(source.prompt(index, 40).value)[: BLOCK - 1]) for index in range(500)}

    assert len(blocks) == 500


def test_a_tokenizer_without_a_chat_template_counts_the_text_and_says_so(tokenizer_dirs: dict[str, str]) -> None:
    source = open_prompts("chat", seed=1, tokenizer=tokenizer_dirs["words"])

    assert "no chat template" in (source.inexact or "")
    assert source.prompt(0, 50).tokens == 50


@each_kind
def test_the_first_guess_is_mostly_right(kind: str, tokenizer_dirs: dict[str, str]) -> None:
    """One encoding per prompt is what the speed rests on: at most 1.1 for tokenizers that cut at spaces."""
    source = open_prompts("text", seed=2, tokenizer=tokenizer_dirs[kind])
    count, calls = source._count, []  # type: ignore[attr-defined]
    source._count = lambda text: calls.append(text) or count(text)  # type: ignore[attr-defined]
    for index in range(50):
        source.prompt(index, 200 + index)

    assert len(calls) <= (150 if kind == "unigram" else 55)


@pytest.mark.parametrize("suffix", ["", " So?"])
def test_a_completion_prompt_in_the_chat_template_is_exact_too(suffix: str, tokenizer_dirs: dict[str, str]) -> None:
    """The template's own special token and the one that encoding adds are both counted, as the server does."""
    directory = tokenizer_dirs["byte_level"]
    source = open_prompts("token_ids", seed=1, tokenizer=directory, prompt_suffix=suffix, apply_chat_template=True)
    prompt = source.prompt(0, 100)

    assert source.form == "text"
    assert prompt.value.startswith("<s>user: ")
    assert prompt.value.endswith(f"{suffix}\nassistant: ")
    assert len(server_tokens(directory, source, prompt.value)) == prompt.tokens == 100


def test_the_chat_template_of_a_chat_is_left_to_the_server(tokenizer_dirs: dict[str, str]) -> None:
    options: dict[str, Any] = {"seed": 1, "tokenizer": tokenizer_dirs["byte_level"]}
    plain, asked = open_prompts("chat", **options), open_prompts("chat", **options, apply_chat_template=True)

    assert asked.prompt(0, 100) == plain.prompt(0, 100)


def test_a_chat_template_that_is_nowhere_to_be_had(tokenizer_dirs: dict[str, str]) -> None:
    for tokenizer in (None, tokenizer_dirs["words"]):
        with pytest.raises(InputError, match="--apply-chat-template needs a tokenizer that has a chat template"):
            open_prompts("text", seed=1, tokenizer=tokenizer, apply_chat_template=True)


@pytest.mark.parametrize("name", ["./no/such/directory", "/no/such/directory", "~/no such directory"])
def test_a_tokenizer_directory_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match=r"no tokenizer at .*no such directory \(--tokenizer"):
        open_prompts("text", seed=1, tokenizer=name)


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot load the tokenizer .*--tokenizer takes") as caught:
        open_prompts("text", seed=1, tokenizer=str(tmp_path))

    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_cached_when_the_hub_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fineserve_shapes.prompts.tokenizer._hub_answers", lambda: False)

    with pytest.raises(InputError, match=r"cannot load the tokenizer 'no-such/model': .*--tokenizer takes"):
        open_prompts("text", seed=1, tokenizer="no-such/model")
