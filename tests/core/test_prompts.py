"""Prompts have exactly the asked length, depend on identity alone, and differ from their first tokens on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.errors import InputError
from fineserve_shapes.prompts.opening import Form, PromptSource, open_prompts
from fineserve_shapes.prompts.ring import Ring
from fineserve_shapes.prompts.tokenids import TokenIds, default_ids
from fineserve_shapes.prompts.tokenizer import load_tokenizer
from fineserve_shapes.prompts.words import WORDS, sentences
from fineserve_shapes.workload.dataset import read_texts

BLOCK = 16  # tokens of a block of vLLM's prefix cache
FORMS: tuple[Form, ...] = ("token_ids", "text", "chat")
SPECIAL = ["<s>", "</s>", "<unk>"]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Short ones densely, where special tokens and heads matter, and longer ones sampled.
LENGTHS = [*range(1, 30), *np.random.default_rng(0).integers(30, 2000, 12).tolist(), 2000]

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


def server_tokens(directory: str, source: PromptSource, value: Any) -> list[int]:
    """The prompt as a server would encode it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    if source.form == "chat":
        ids = tokenizer.apply_chat_template(value, tokenize=True, add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer(value)["input_ids"]
    return list(ids)


# Laws that hold for every source.


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


# Token ids.


@given(index=st.integers(0, 2**40), input_tokens=st.integers(1, 3000))
def test_token_ids_are_exact_and_ordinary(index: int, input_tokens: int) -> None:
    prompt = PLAIN_IDS.prompt(index, input_tokens)

    assert len(prompt.value) == prompt.tokens == input_tokens
    assert set(prompt.value) <= set(range(1000, 4000))


PLAIN_IDS = open_prompts("token_ids", seed=3)


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


# Words.


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


# Text that a tokenizer has checked.


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


def test_threads_may_share_a_source(tokenizer_dirs: dict[str, str]) -> None:
    source = open_prompts("text", seed=4, tokenizer=tokenizer_dirs["byte_level"])
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda index: source.prompt(index, 200), range(40)))

    assert made == [source.prompt(index, 200) for index in range(40)]


# Prompt files.


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


# The ring, against a slow twin that goes piece by piece.


@given(costs=st.lists(st.integers(1, 5), min_size=1, max_size=8), place=st.integers(0, 2**32), cost=st.integers(0, 60))
def test_a_run_is_what_going_piece_by_piece_gives(costs: list[int], place: int, cost: int) -> None:
    pieces = [f"<{number}:{piece_cost}>" for number, piece_cost in enumerate(costs)]
    at, text, spent = place % len(pieces), "", 0
    while spent + costs[at] <= cost:
        text, spent, at = text + pieces[at], spent + costs[at], (at + 1) % len(pieces)

    assert Ring(pieces, np.array(costs)).run(place, cost) == (text, spent)


def test_the_words_are_distinct_and_enough_for_a_byte_each() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 256


def test_the_module_loads_without_transformers() -> None:
    """It takes two seconds to import, which runs with token ids need not wait for."""
    code = "import sys, fineserve_shapes.prompts.opening; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
