"""Prompts of every source have the length that they say, and depend on identity alone."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fineserve_shapes.prompts.opening import Form, PromptSource, open_prompts

FORMS: tuple[Form, ...] = ("token_ids", "text", "chat")


@pytest.fixture(
    scope="module", params=["token_ids", "text", "chat", "tokenizer ids", "tokenizer text", "tokenizer chat"]
)
def source(request: pytest.FixtureRequest, tokenizer_dirs: dict[str, str]) -> PromptSource:
    *tokenized, form = request.param.split()
    return open_prompts(
        "token_ids" if form == "ids" else form, seed=7, tokenizer=tokenizer_dirs["byte_level"] if tokenized else None
    )


def test_a_prompt_depends_on_its_identity_whatever_the_order_of_calls(source: PromptSource) -> None:
    forwards = [source.prompt(index, 50 + index) for index in range(20)]
    backwards = [source.prompt(index, 50 + index) for index in reversed(range(20))]

    assert forwards == backwards[::-1]


def test_a_prompt_says_how_long_it_is(source: PromptSource) -> None:
    assert [source.prompt(index, 300 + index).tokens for index in range(20)] == list(range(300, 320))


def test_the_json_is_what_the_form_says(source: PromptSource) -> None:
    value = source.prompt(3, 100).value

    if source.form == "token_ids":
        assert all(type(token) is int for token in value)
    elif source.form == "text":
        assert isinstance(value, str)
    else:
        assert [message["role"] for message in value] == ["user"]
        assert isinstance(value[0]["content"], str)


def test_no_two_prompts_begin_alike(source: PromptSource) -> None:
    heads = {source.prompt(index, 60).json[:90] for index in range(1000)}

    assert len(heads) == 1000


@pytest.mark.parametrize("form", FORMS)
def test_another_process_makes_the_same_prompts(form: Form) -> None:
    """What hash randomisation or the order of a set would break."""
    code = (
        "from fineserve_shapes.prompts.opening import open_prompts\n"
        f"source = open_prompts({form!r}, seed=7)\n"
        "print(source.digest, source.prompt(5, 400).json.decode())"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    source = open_prompts(form, seed=7)

    assert made == f"{source.digest} {source.prompt(5, 400).json.decode()}"


@pytest.mark.parametrize("form", FORMS)
def test_the_digest_tells_sources_apart(form: Form, tokenizer_dirs: dict[str, str], sharegpt: Path) -> None:
    variants: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 2},
        {"seed": 1, "prompt_suffix": " Answer:"},
        {"seed": 1, "dataset_path": sharegpt},
        {"seed": 1, "tokenizer": tokenizer_dirs["byte_level"]},
        {"seed": 1, "tokenizer": tokenizer_dirs["unigram"]},
    ]

    assert len({open_prompts(form, **options).digest for options in variants}) == len(variants)
    assert open_prompts(form, seed=1).digest == open_prompts(form, seed=1).digest


def test_threads_may_share_a_source(tokenizer_dirs: dict[str, str]) -> None:
    source = open_prompts("text", seed=4, tokenizer=tokenizer_dirs["byte_level"])
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda index: source.prompt(index, 200), range(40)))

    assert made == [source.prompt(index, 200) for index in range(40)]


def test_the_module_loads_without_transformers() -> None:
    """It takes two seconds to import, which runs with token ids need not wait for."""
    code = "import sys, fineserve_shapes.prompts.opening; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
