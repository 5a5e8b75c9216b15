"""Prompts share exactly the blocks that their ids say, and nothing else."""

from __future__ import annotations

import itertools
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.errors import InputError
from fineserve_shapes.options import POISSON
from fineserve_shapes.planning.synthesis import poisson
from fineserve_shapes.prompts.opening import PromptSource, open_prompts
from fineserve_shapes.values import Values
from fineserve_shapes.workload.prefixblocks import PrefixBlocks
from fineserve_shapes.workload.replay import replay_plan
from fineserve_shapes.workload.synthetic import SharedPrefixes
from fineserve_shapes.workload.traces.columns import joined
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

ROOT = Path(__file__).parents[2]
MOONCAKE = ROOT.parent / "shared" / "data" / "mooncake" / "conversation_trace_head.jsonl"
IDS = open_prompts("token_ids", seed=1)
WORDS = open_prompts("text", seed=1)
SUFFIXED = open_prompts("text", seed=1, prompt_suffix=" and so on")


def tokens(source: PromptSource, index: int, length: int, prefix: tuple[int, ...]) -> list[object]:
    """The prompt's tokens; a text's are its words."""
    value = source.prompt(index, length, prefix).value
    return value.split() if isinstance(value, str) else value


def common(one: list[object], other: list[object]) -> int:
    """How many tokens two prompts share from their beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# --- the ragged column


ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=8)


@given(ROWS, st.data())
def test_rows_are_picked_as_from_a_list(rows, data) -> None:
    column = PrefixBlocks.of(rows)
    expected = [(512, *row) if row else () for row in rows]
    assert (column.rows(), len(column)) == (expected, len(rows))
    start, end = sorted([data.draw(st.integers(0, len(rows))), data.draw(st.integers(0, len(rows)))])
    assert column[start:end].rows() == expected[start:end]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    assert column[mask].rows() == list(itertools.compress(expected, mask))
    order = np.array(data.draw(st.permutations(range(len(rows)))), dtype=np.int64)
    assert column[order].rows() == [expected[place] for place in order]
    assert PrefixBlocks.joined([column[:start], column[start:]]).rows() == expected


# --- prompts


@pytest.mark.parametrize("source", [IDS, WORDS, SUFFIXED], ids=["ids", "words", "suffix"])
@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 3), max_size=4),
    st.integers(1, 40),
    st.lists(st.integers(0, 3), max_size=4),
)
def test_two_prompts_share_the_blocks_with_equal_ids_and_no_more(source, length, ids, other_length, other_ids) -> None:
    """Blocks of 8 tokens. The tails differ within the first 4 tokens, those of different blocks too."""
    block = 8
    one, other = tokens(source, 0, length, (block, *ids)), tokens(source, 1, other_length, (block, *other_ids))
    equal = next(
        (at for at, (a, b) in enumerate(zip(ids, other_ids, strict=False)) if a != b), min(len(ids), len(other_ids))
    )
    suffix = 3 if source is SUFFIXED else 0
    body, other_body = (max(len(found) - suffix, 1) for found in (one, other))
    due = min(equal * block, body, other_body)
    shared = common(one, other)
    assert shared >= due
    assert shared < due + 4 or shared >= min(body, other_body)
    assert (len(one), len(other)) == (max(length, 1 + suffix), max(other_length, 1 + suffix))


def test_a_prompt_without_ids_is_what_it_was() -> None:
    for source in (IDS, WORDS):
        assert source.prompt(5, 100) == source.prompt(5, 100, ())
        assert source.prompt(5, 100) == source.prompt(5, 100, (512,))


def test_blocks_depend_on_their_id_and_the_seed_alone() -> None:
    again, other = open_prompts("token_ids", seed=1), open_prompts("token_ids", seed=2)
    assert tokens(IDS, 3, 600, (512, 9)) == tokens(again, 3, 600, (512, 9))
    assert tokens(IDS, 3, 600, (512, 9))[:512] == tokens(again, 77, 5000, (512, 9))[:512]
    assert common(tokens(IDS, 3, 600, (512, 9)), tokens(other, 3, 600, (512, 9))) < 16
    assert common(tokens(IDS, 3, 600, (512, 9)), tokens(IDS, 3, 600, (512, 9 + 2**32))) < 16


def test_text_for_a_tokenizer_shares_whole_blocks_and_has_the_exact_length(word_tokenizer) -> None:
    source = open_prompts("text", seed=1, tokenizer=word_tokenizer)
    one, other = source.prompt(0, 100, (16, 1, 2, 3)), source.prompt(1, 90, (16, 1, 2, 4))
    assert (one.tokens, other.tokens) == (100, 90)
    shared = common(one.value.split(), other.value.split())
    assert 24 <= shared <= 36  # two blocks of about 16 tokens
    whole = source.prompt(2, 33, (16, 1, 2, 3))  # the third block would fill the prompt beyond its length
    assert whole.tokens == 33
    assert common(whole.value.split(), one.value.split()) >= 24


@pytest.fixture(scope="module")
def word_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer that knows bytes alone is too fine here: words, and bytes for the rest."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from fineserve_shapes.prompts.words import WORDS as VOCABULARY

    vocabulary = ["[UNK]", *(word for known in VOCABULARY for word in (known, known.capitalize())), ".", ","]
    model = models.WordLevel({word: rank for rank, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


# --- traces


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ids_stay_with_their_row_through_sorting_slicing_spreading_and_thinning(tmp_path: Path) -> None:
    """Each row's only id is its input length, of one or two blocks; every third row has no id and more tokens."""
    order = np.random.default_rng(3).permutation(300)
    lengths = [2000 + at if at % 3 == 0 else 512 * (at % 3 - 1) + 1 + at for at in order.tolist()]
    rows = [
        {
            "timestamp": 100 * at,
            "input_length": length,
            "output_length": 1,
            "hash_ids": [length] * (at % 3),
        }
        for at, length in zip(order.tolist(), lengths, strict=True)
    ]
    path = write(tmp_path / "x.jsonl", rows)
    trace = open_trace(path, chunk_rows=17)
    parts = list(trace.blocks())
    assert len(joined(parts)) == 300
    options = TraceOptions(start_at_s=2.0, duration_s=20.0, spread_within_s=1.0, max_gap_s=0.05, seed=1)
    seen = 0
    for block in replay_plan(path, options, time_scale=2.0, keep_fraction=0.7, num_prompts=120):
        assert block.prefix is not None
        for length, prefix in zip(block.input_tokens.tolist(), block.prefix.rows(), strict=True):
            assert prefix == (() if length >= 2000 else (512, *[length] * (length // 512 + 1)))
            seen += 1
    assert seen == 120


@pytest.mark.parametrize("ids", ["x", [1.5], [True], {"a": 1}, [2**70], [[1]]])
def test_ids_that_are_none_are_refused_with_the_place(tmp_path: Path, ids: object) -> None:
    rows = [{"timestamp": at, "input_length": 1, "output_length": 1, "hash_ids": []} for at in range(3)]
    rows[1]["hash_ids"] = ids
    with pytest.raises(InputError, match=r"row 2 \(line 2\), column hash_ids: .* is no list of whole numbers"):
        open_trace(write(tmp_path / "x.jsonl", rows))


BAILIAN = {"chat_id": 1, "parent_chat_id": -1, "turn": 1, "type": "text"}


def blocks_of(lengths: list[int], tokens: int, **more: object) -> list[dict[str, object]]:
    """Rows of these input lengths, each with an id for each block of so many tokens."""
    return [
        {"timestamp": at, "input_length": length, "output_length": 1, "hash_ids": list(range(-(-length // tokens)))}
        | more
        for at, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("more", "asked", "tokens"), [({}, None, 512), (BAILIAN, None, 16), ({}, 16, 16), (BAILIAN, 64, 64), ({}, 1, 1)]
)
def test_blocks_have_the_size_of_the_trace_s_form_or_the_one_asked_for(
    tmp_path: Path, more: dict[str, object], asked: int | None, tokens: int
) -> None:
    """Their last one is cut where the prompt ends."""
    lengths = [1, 511, 512, 513, 5000]
    path = write(tmp_path / "x.jsonl", blocks_of(lengths, tokens, **more))
    trace = open_trace(path, TraceOptions(prefix_block_tokens=asked))
    prefix = joined(list(trace.blocks())).prefix
    assert prefix is not None
    assert prefix.rows() == [(tokens, *range(-(-length // tokens))) for length in lengths]
    assert trace.opening.prefix_block_tokens == tokens
    assert f"shared blocks of {tokens} tokens" in trace.opening.line()


@given(st.sampled_from([8, 16, 32, 64, 256, 1024]), st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_a_block_size_that_fits_all_rows_is_found(tokens: int, lengths: list[int]) -> None:
    array = np.array(lengths)
    prefix = PrefixBlocks.of([range(-(-length // tokens)) for length in lengths])
    assert prefix.fitting(array, tokens).all()
    assert prefix.fitting(array, prefix.best_block_tokens(array)).all()


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_another_number_of_ids_is_an_error_that_names_the_size_that_fits(tmp_path: Path, name: str) -> None:
    """Bailian's blocks without Bailian's columns; rows without ids share nothing, whatever their length."""
    rows = blocks_of([700, 521, 40], 16)
    rows[0]["hash_ids"] = []
    path = tmp_path / name
    if name == "x.jsonl":
        write(path, rows)
    elif name == "x.csv":
        lines = [f'{row["timestamp"]},{row["input_length"]},1,"{json.dumps(row["hash_ids"])}"' for row in rows]
        path.write_text("\n".join(["timestamp,input_length,output_length,hash_ids", *lines, ""]))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    message = "row 2.*, column hash_ids: the number of ids is 33, but 521 input tokens are 2 blocks of 512"
    with pytest.raises(InputError, match=message + r"; blocks of 16 would fit \(--prefix-block-tokens 16\)$"):
        open_trace(path)
    assert open_trace(path, TraceOptions(prefix_block_tokens=16)).survey.kept == 3


@pytest.mark.parametrize(("ids", "word"), [([1, 2, 3], 3), ([1], 1)])
def test_one_row_with_other_ids_than_its_blocks_is_an_error_too(tmp_path: Path, ids: list[int], word: int) -> None:
    rows = blocks_of([600] * 50, 512)
    rows[30]["hash_ids"] = ids
    message = f"row 31 .*the number of ids is {word}, but 600 .*no other size fits more rows"
    with pytest.raises(InputError, match=message):
        open_trace(write(tmp_path / "x.jsonl", rows))


def test_a_prompt_that_is_cut_has_no_more_ids_than_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", blocks_of([3000, 100], 512))
    options = TraceOptions(max_model_len=1000)
    (columns,) = open_trace(path, options).blocks()
    assert columns.input_tokens.tolist() == [999, 100]
    assert columns.prefix is not None
    assert columns.prefix.rows() == [(512, 0, 1), (512, 0)]


def test_a_block_size_without_ids_or_tokens_is_an_error(tmp_path: Path) -> None:
    rows = [{"timestamp": 0, "input_length": 1, "output_length": 1}]
    with pytest.raises(InputError, match=r"no column hash_ids \(--prefix-block-tokens\)"):
        open_trace(write(tmp_path / "x.jsonl", rows), TraceOptions(prefix_block_tokens=16))
    with pytest.raises(InputError, match=r"at least 1 token, got 0 \(--prefix-block-tokens\)"):
        TraceOptions(prefix_block_tokens=0)


@pytest.mark.realdata
@pytest.mark.skipif(not MOONCAKE.exists(), reason="no published traces beside the checkout")
def test_every_row_of_the_mooncake_trace_has_an_id_for_each_block() -> None:
    (columns,) = open_trace(MOONCAKE).blocks()
    assert columns.prefix is not None
    assert np.diff(columns.prefix.offsets).tolist() == (-(-columns.input_tokens // 512)).tolist()


@pytest.mark.realdata
@pytest.mark.skipif(not MOONCAKE.exists(), reason="no published traces beside the checkout")
def test_prompts_of_the_mooncake_trace_share_exactly_what_its_hash_ids_say() -> None:
    """Of 400 requests, all pairs: as many tokens as the blocks whose ids agree, up to the shorter prompt."""
    block = next(iter(replay_plan(MOONCAKE))).take(slice(400))
    assert block.prefix is not None
    prompts = [
        tokens(IDS, index, length, prefix)
        for index, length, prefix in zip(
            block.index.tolist(), block.input_tokens.tolist(), block.prefix.rows(), strict=True
        )
    ]
    assert [len(prompt) for prompt in prompts] == block.input_tokens.tolist()
    ids = [prefix[1:] for prefix in block.prefix.rows()]
    arrays = [np.array(prompt) for prompt in prompts]
    shared_blocks = 0
    for one, other in itertools.combinations(range(400), 2):
        equal = common(list(ids[one]), list(ids[other]))
        due = min(512 * equal, len(arrays[one]), len(arrays[other]))
        shorter = min(len(arrays[one]), len(arrays[other]))
        differ = np.flatnonzero(arrays[one][:shorter] != arrays[other][:shorter])
        found = int(differ[0]) if len(differ) else shorter
        assert due <= found < due + 4 or found == shorter == due
        shared_blocks += equal
    assert shared_blocks > 10_000


# --- synthetic workloads


def test_a_share_of_the_prompts_begins_with_one_of_the_groups() -> None:
    """Shares within 4 standard errors (1 in 16,000)."""
    parsed = {option.dest: False if option.default is None else option.default for option in POISSON}
    given_ = parsed | {
        "prefix_share": "0.3", "prefix_groups": "4", "prefix_length": "200", "input_length": "U(101,300)",
        "output_length": "5", "num_prompts": "20000",
    }  # fmt: skip
    plan = poisson(Values(Namespace(**given_)), 100.0, None).plan.limited(20_000)
    rows = [
        (length, prefix)
        for block in plan
        for length, prefix in zip(block.input_tokens.tolist(), block.prefix.rows(), strict=True)
    ]
    sharing = [prefix for length, prefix in rows if prefix]
    assert all(length > 200 for length, prefix in rows if prefix)
    long = sum(length > 200 for length, _ in rows)
    assert abs(len(sharing) / long - 0.3) < 4 * np.sqrt(0.3 * 0.7 / long)
    groups, counts = np.unique([prefix[1] for prefix in sharing], return_counts=True)
    assert groups.tolist() == [0, 1, 2, 3]
    assert np.abs(counts / len(sharing) - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / len(sharing))
    without = poisson(Values(Namespace(**given_ | {"prefix_share": ""})), 100.0, None).plan.limited(100)
    assert [block.due_s.tolist() for block in without] == [block.due_s.tolist() for block in plan.limited(100)]
    assert next(iter(without)).prefix is None


@pytest.mark.parametrize(
    ("values", "flag"),
    [((0.0, 1, 1), "--prefix-share"), ((1.5, 1, 1), "--prefix-share"), ((1.0, 0, 1), "--prefix-groups"),
     ((1.0, 1, 0), "--prefix-length")],
)  # fmt: skip
def test_bad_prefixes_are_refused_with_their_flag(values: tuple[float, int, int], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        SharedPrefixes(*values)
