"""Tokenizers of every usual kind, trained here on text that every machine has: none is fetched."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest

from fineserve_shapes.prompts.opening import PromptSource
from fineserve_shapes.prompts.words import sentences

SPECIAL = ["<s>", "</s>", "<unk>"]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


KINDS = ("byte_level", "metaspace", "unigram", "words")
each_kind = pytest.mark.parametrize("kind", KINDS)


def training_text() -> list[str]:
    """Some of the standard library's own source: real text that every machine has."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:12]
    return [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()] + sentences(0, 3000)


def make_tokenizer(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if kind == "byte_level":  # like GPT-2, Llama 3 and Qwen, with a first special token as Llama 3 has it
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=1500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(training_text(), trainer)
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    elif kind == "metaspace":  # like Llama 2: SentencePiece's BPE, whose pieces may reach over spaces
        made = Tokenizer(models.BPE(unk_token="<unk>"))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=SPECIAL, show_progress=False)
        words = [word for line in training_text() for word in line.split()[:8]]
        made.train_from_iterator(words, trainer)
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    elif kind == "unigram":  # like T5: a first guess of the length is off by more
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=900, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
        made.train_from_iterator(sentences(0, 6000), trainer)
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    else:
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=1000, special_tokens=SPECIAL, show_progress=False)
        made.train_from_iterator(sentences(0, 3000), trainer)
    return made


def server_tokens(directory: str, source: PromptSource, value: Any) -> list[int]:
    """The prompt as a server would encode it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    if source.form == "chat":
        ids = tokenizer.apply_chat_template(value, tokenize=True, add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer(value)["input_ids"]
    return list(ids)
