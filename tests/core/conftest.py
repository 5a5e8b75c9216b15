"""Fixtures of the core's tests, and Hypothesis settings for its laws: the same examples on every machine, no deadline on
noisy cores."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from thorough import examples
from trained import KINDS, TEMPLATE, make_tokenizer

settings.register_profile(
    "laws",
    max_examples=examples(100),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("laws")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines into a file and tells its path."""

    def write(*lines: str, name: str = "trace.csv", end: str = "\n") -> Path:
        path = tmp_path / name
        path.write_bytes(end.join([*lines, ""]).encode())
        return path

    return write


@pytest.fixture(scope="session")
def tokenizer_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Offline tokenizers, by kind, as directories that AutoTokenizer loads."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import PreTrainedTokenizerFast

    dirs = {}
    for kind in KINDS:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=make_tokenizer(kind), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        if kind != "words":
            tokenizer.chat_template = TEMPLATE
        dirs[kind] = str(tmp_path_factory.mktemp(kind))
        tokenizer.save_pretrained(dirs[kind])
    return dirs


@pytest.fixture(scope="session")
def sharegpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that are hard to cut: no spaces, odd white space, code, emoji, special tokens spelt out."""
    texts = [
        "世界你好，这是一个没有空格的句子。" * 9,
        "def f(x):\n\treturn x  +  1\n\n\nclass   A:  pass " * 20,
        "naïve café 🎉🎉 ok",
        "ends </s> here <s> and goes on",
        "short",
    ]
    entries: list[Any] = [{"conversations": [{"from": "human", "value": text}]} for text in texts]
    path = tmp_path_factory.mktemp("prompts") / "sharegpt.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path
