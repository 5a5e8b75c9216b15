"""The source of prompts that the options ask for: a request's number and length -> JSON of exactly that many tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from fineserve_shapes.errors import InputError
from fineserve_shapes.prompts.prompt import Form, Prompt, PromptSource
from fineserve_shapes.prompts.texts import TokenizedText, Words
from fineserve_shapes.prompts.tokenids import VOCAB_SIZE, TokenIds, default_ids
from fineserve_shapes.prompts.tokenizer import Tokenizer, load_tokenizer
from fineserve_shapes.prompts.words import sentences
from fineserve_shapes.workload.dataset import read_texts
from fineserve_shapes.workload.seeds import Purpose, rng

__all__ = ["Form", "Prompt", "PromptSource", "open_prompts"]

_SYNTHETIC_WORDS = 20_000
_DATASET_CHARACTERS = 1_000_000


def open_prompts(
    form: Form,
    *,
    seed: int,
    tokenizer: str | None = None,
    dataset_path: Path | None = None,
    prompt_suffix: str = "",
    vocab_size: int = VOCAB_SIZE,
    apply_chat_template: bool = False,
) -> PromptSource:
    """The source of prompts that the options ask for.

    Parameters
    ----------
    form: "token_ids" for servers that take ids (vLLM's ``/v1/completions``); "text" for those that do not; "chat".
    seed: not negative.
    tokenizer: a directory or a model's name; without it, text counts one token a word.
    dataset_path: a prompt file (see `read_texts`) whose texts take the place of synthetic ones.
    prompt_suffix: ends every prompt, and counts in its length.
    vocab_size: how many ids the model has, for "token_ids" without a tokenizer.
    apply_chat_template: text is a user message in the tokenizer's chat template, for ``/v1/completions``; chats, to
        which the server applies it, stay as they are.

    "token_ids" gives text, and its `form` says so, where ids would need a tokenizer (a dataset or a suffix without one)
    or where the chat template is to be applied, which is text.

    Raises InputError if the prompt file or the tokenizer cannot be used.
    """
    texts = None if dataset_path is None else _sample(read_texts(dataset_path), seed)
    counter = None if tokenizer is None else load_tokenizer(tokenizer)
    templated = apply_chat_template and form != "chat"
    if templated and (counter is None or not counter.has_chat_template):
        raise InputError("--apply-chat-template needs a tokenizer that has a chat template (--tokenizer)")
    if form == "token_ids" and not templated:
        if counter is not None:
            rows = None if texts is None else _rows(texts, counter)
            return TokenIds(seed, counter.ordinary_ids, rows=rows, suffix=counter.ids(prompt_suffix))
        if texts is None and not prompt_suffix:
            return TokenIds(seed, default_ids(vocab_size))
    texts = texts or sentences(seed, _SYNTHETIC_WORDS)
    chat = form == "chat"
    if counter is None:
        return Words(seed, texts, suffix=prompt_suffix, chat=chat)
    return TokenizedText(seed, texts, counter, suffix=prompt_suffix, chat=chat, templated=templated)


def _sample(texts: list[str], seed: int) -> list[str]:
    """Texts in a seeded order, a million characters at most: variety enough, and measured within a second or two."""
    order = rng(seed, Purpose.ORDER_OF_TEXTS).permutation(len(texts)).tolist()
    picked = [texts[row][: _DATASET_CHARACTERS // 10] for row in order]
    lengths = itertools.accumulate(map(len, picked))
    return [text for text, so_far in zip(picked, lengths, strict=True) if so_far <= _DATASET_CHARACTERS]


def _rows(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The texts' token ids, without special ones that a text spells out."""
    ordinary = set(tokenizer.ordinary_ids.tolist())
    rows = [[token for token in tokenizer.ids(text) if token in ordinary] for text in texts]
    if not any(rows):
        raise InputError(f"the tokenizer {tokenizer.name!r} knows no token of the prompt file's texts (--dataset-path)")
    return [row for row in rows if row]
