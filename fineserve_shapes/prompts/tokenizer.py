"""Tokenizer: the model's own counting of tokens, as the server does it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fineserve_shapes.arrays import IntArray
from fineserve_shapes.errors import InputError

_PROBE = "The 3 quick_brown foxes:\n\tjumped over déjà vu, 世界 (don't!)  "
_PLAIN = {"return_attention_mask": False, "return_token_type_ids": False}


class Tokenizer:
    """A transformers tokenizer, asked only what prompts need.

    `tokenizer` is what ``AutoTokenizer.from_pretrained`` returns; `name` is for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.name = name
        self._tokenizer = tokenizer
        tokenizer.model_max_length = 10**9  # the plan decides on lengths; transformers would only warn
        try:
            self.count_chat("a")
            self.has_chat_template = True
        except Exception:  # what a missing template raises differs between kinds of tokenizers
            self.has_chat_template = False

    def count(self, text: str) -> int:
        """Tokens of a prompt text, special ones included, as ``/v1/completions`` counts them."""
        return len(self._tokenizer(text, **_PLAIN)["input_ids"])

    def count_chat(self, text: str) -> int:
        """Tokens of one user message in the chat template, as ``/v1/chat/completions`` counts them."""
        messages = [{"role": "user", "content": text}]
        return len(
            self._tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        )

    def templated(self, text: str) -> str:
        """One user message as the chat template writes it."""
        messages = [{"role": "user", "content": text}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def count_each(self, pieces: Sequence[str]) -> IntArray:
        """Tokens that each piece adds after another word: an estimate, since neighbours can merge. At least 1 each."""
        # After a letter, because tokenizers treat the very beginning of a text differently.
        rows = self._tokenizer(["a" + piece for piece in pieces], **_PLAIN)["input_ids"]
        counts = np.array([len(row) for row in rows], dtype=np.int64) - self.count("a")
        return np.maximum(counts, 1)

    def ids(self, text: str) -> list[int]:
        """The text's token ids, without special ones."""
        return [int(token) for token in self._tokenizer(text, add_special_tokens=False, **_PLAIN)["input_ids"]]

    @functools.cached_property
    def ordinary_ids(self) -> IntArray:
        """The ids of the vocabulary that are neither special nor added to it (control, image or padding tokens)."""
        taken = set(self._tokenizer.all_special_ids) | set(getattr(self._tokenizer, "added_tokens_decoder", {}))
        return np.array(sorted(set(self._tokenizer.get_vocab().values()) - taken), dtype=np.int64)

    @functools.cached_property
    def digest(self) -> str:
        """The same for tokenizers that have the same vocabulary and template and encode alike, wherever they lie."""
        vocabulary = sorted(self._tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
        template = str(getattr(self._tokenizer, "chat_template", None))
        probe = [int(token) for token in self._tokenizer(_PROBE)["input_ids"]]
        return hashlib.sha256(json.dumps([vocabulary, template, probe]).encode()).hexdigest()


@functools.lru_cache(maxsize=4)  # loading takes seconds, and the runs of one process mostly share a tokenizer
def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model, by directory or by name on the Hugging Face hub.

    Raises InputError if it cannot be had, for instance without a network.
    """
    path = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not path.is_dir():
        raise InputError(f"no tokenizer at {name}: no such directory (--tokenizer takes a directory or a model's name)")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch is meant
    from transformers import AutoTokenizer  # here, since it takes two seconds that other runs need not wait for

    place = str(path) if path.is_dir() else name
    try:
        # From the cache first: it asks the network for nothing, and the hub's client retries for 48 s without one.
        return Tokenizer(AutoTokenizer.from_pretrained(place, local_files_only=True), name)
    except Exception as error:  # the hub, the file system and each kind of tokenizer raise their own
        if path.is_dir() or not _hub_answers():
            raise _unloadable(name, error) from error
    try:
        return Tokenizer(AutoTokenizer.from_pretrained(place), name)
    except Exception as error:
        raise _unloadable(name, error) from error


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # which kind depends on the HTTP client that the hub's version uses
        return False
    return True


def _unloadable(name: str, error: Exception) -> InputError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return InputError(
        f"cannot load the tokenizer {name!r}: {reason} (--tokenizer takes a directory with tokenizer files,"
        " or a model's name that is cached or can be fetched)"
    )
