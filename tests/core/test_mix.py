"""A mix of plans: in order, complete, and each stream as it would be alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from fineserve_shapes.leases.book import LeaseBook
from fineserve_shapes.leases.lease import Batch, Report, Row, rows_of
from fineserve_shapes.measure.ledger import Ledgers
from fineserve_shapes.measure.names import Names
from fineserve_shapes.outcome import OUTCOMES
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.mix import mixed_plan
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.prefixblocks import PrefixBlocks

gaps = st.lists(st.sampled_from([0.0, 0.25, 1.0]), max_size=40)


def plan_of(name: str, gaps_s: list[float], block_rows: int = 7, *, block_tokens: int | None = None) -> Plan:
    """Rows whose lengths tell whose they are, in blocks of so many."""
    due_s = np.cumsum(gaps_s) if gaps_s else np.empty(0)
    length = 1 + np.arange(len(due_s)) + 1000 * ord(name)

    def source() -> Iterator[Block]:
        for start in range(0, len(due_s), block_rows):
            part = slice(start, start + block_rows)
            size = len(due_s[part])
            prefix = None
            if block_tokens is not None:
                prefix = PrefixBlocks.joined([PrefixBlocks(np.arange(size + 1), length[part], block_tokens)])
            zeros = np.zeros(size, dtype=np.int64)
            yield Block(zeros, due_s[part], length[part], length[part] + 1, zeros, prefix)

    return Plan(source, identity={"name": name, "gaps": gaps_s}, sized=True)


def rows(plan: Plan) -> list[Row]:
    return [row for block in plan for row in rows_of(block)]


def of_stream(plan: Plan, number: int) -> list[tuple[float, int, int, int, tuple[int, ...]]]:
    return [(row.due_s, row.input_tokens, row.output_tokens, row.position, row.prefix)
            for row in rows(plan) if row.stream == number]  # fmt: skip


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(gaps, min_size=1, max_size=4), st.integers(1, 9))
def test_a_mix_is_the_merge_of_its_streams(streams: list[list[float]], block_rows: int):
    """The twin merges row by row."""
    plans = {chr(97 + number): plan_of(chr(97 + number), gaps_s, block_rows) for number, gaps_s in enumerate(streams)}
    found = rows(mixed_plan(plans))
    twin = heapq.merge(*([(row.due_s, number, row.request, row.input_tokens) for row in rows(plan)]
                         for number, plan in enumerate(plans.values())))  # fmt: skip
    assert sorted((row.due_s, row.stream, row.position, row.input_tokens) for row in found) == list(twin)
    assert [row.due_s for row in found] == sorted(row.due_s for row in found)
    assert [row.request for row in found] == list(range(len(found)))


@settings(max_examples=examples(100), deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), gaps, min_size=1), st.randoms(use_true_random=False))
def test_a_stream_is_the_same_whatever_others_there_are(streams: dict[str, list[float]], random: object):
    """Alone, in another order, or with one more."""
    plans = {name: plan_of(name, gaps_s, 5, block_tokens=16) for name, gaps_s in streams.items()}
    names = list(plans)
    random.shuffle(names)  # type: ignore[attr-defined]
    reordered = mixed_plan({name: plans[name] for name in names})
    with_more = mixed_plan({"z": plan_of("z", [0.5] * 30, block_tokens=512), **plans})
    for number, (name, plan) in enumerate(plans.items()):
        alone = of_stream(mixed_plan({name: plan}), 0)
        assert of_stream(mixed_plan(plans), number) == alone
        assert of_stream(reordered, names.index(name)) == alone
        assert of_stream(with_more, number + 1) == alone


def test_size_and_fingerprint_are_those_of_all_streams():
    a, b = plan_of("a", [1.0] * 10), plan_of("b", [0.5] * 10)
    plan = mixed_plan({"a": a, "b": b})
    assert (plan.requests, plan.span_s) == (20, 10.0)
    assert plan.fingerprint == mixed_plan({"a": a, "b": b}).fingerprint
    assert plan.fingerprint != mixed_plan({"a": a, "c": b}).fingerprint


def test_what_is_cut_from_a_mix_keeps_its_streams_positions():
    plan = mixed_plan({"a": plan_of("a", [1.0] * 10), "b": plan_of("b", [1.0] * 10)})
    late = rows(plan.between(5.5, 8.5).faster(2.0))
    assert [(row.stream, row.position, row.due_s) for row in late] == [
        (0, 5, 0.25), (1, 5, 0.25), (0, 6, 0.75), (1, 6, 0.75), (0, 7, 1.25), (1, 7, 1.25)
    ]  # fmt: skip


def test_an_endless_stream_makes_an_endless_mix():
    def source() -> Iterator[Block]:
        number = 0
        while True:
            index = np.arange(4)
            yield Block(index, number + index / 4, index + 1, index + 1, 0 * index)
            number += 1

    endless = Plan(source, identity={}, endless=True)
    plan = mixed_plan({"a": plan_of("a", [1.0] * 3), "b": endless})
    assert plan.endless
    assert len(rows(plan.between(0.0, 10.0))) == 43


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_the_ledgers_of_streams_add_up_to_the_runs(data: st.DataObject):
    """Whatever becomes of rows: ended, given back, lost with their worker, or never sent."""
    plan = mixed_plan({name: plan_of(name, [0.1] * 30) for name in "ab"})
    book = LeaseBook(iter(plan), plan.requests, mixed=True, horizon_s=1.0)
    book.join("w", 0.0)
    now_s = 0.0
    for number in range(data.draw(st.integers(0, 6))):
        now_s += 0.4
        held = [row.request for _, lease in book.step(now_s) for row in lease.rows]
        ended = data.draw(st.lists(st.sampled_from(held), unique=True) if held else st.just([]))
        dropped = [request for request in held if request not in ended][: data.draw(st.integers(0, 3))]
        codes = [data.draw(st.integers(0, 5)) for _ in ended]
        batch = Batch(number, np.array(ended, dtype=np.int64), np.array(codes, dtype=np.uint8),
                      np.array(dropped, dtype=np.int64), np.zeros(len(dropped), dtype=np.int64))  # fmt: skip
        book.report("w", Report(0, now_s, 99, [batch]), now_s)
        _adds_up(book.ledgers)
    if data.draw(st.booleans()):
        book.leave("w")
    _adds_up(book.ledgers)
    book.give_up()
    list(book.unsent())
    _adds_up(book.ledgers)
    assert book.ledgers.total.open == 0
    assert sum(ledger.planned for ledger in book.ledgers.by_stream.values()) == plan.requests == 60


def _adds_up(ledgers: Ledgers) -> None:
    for outcome in OUTCOMES:
        streams = sum(ledger[outcome] for ledger in ledgers.by_stream.values())
        assert streams <= ledgers.total[outcome] if outcome == "unsent" else streams == ledgers.total[outcome]


@pytest.mark.parametrize(("mixed", "wanted"), [(False, "r-7"), (True, "r-b-3")])
def test_a_requests_name_does_not_depend_on_other_streams_of_a_mix(mixed: bool, wanted: str):
    assert Names(("a", "b"), mixed).request_id("r", 1, 7, 3) == wanted
