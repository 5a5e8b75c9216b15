"""Exactly once, whatever happens to the messages: the lease protocol on a simulated, hostile network."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thorough import examples

from fineserve_shapes.leases.book import LeaseBook
from fineserve_shapes.leases.holder import LeaseHolder
from fineserve_shapes.leases.lease import FENCE_S, Lease, Report, Row
from fineserve_shapes.leases.slots import Limit, Load, Slots
from fineserve_shapes.workload.block import Block


def plan(due_s: list[float]) -> Block:
    n = len(due_s)
    return Block(np.arange(n), np.array(sorted(due_s)), np.full(n, 7), np.full(n, 3), np.zeros(n, dtype=np.int64))


@dataclass
class Worker:
    """A worker with a clock of its own, which may sleep; it sends what is due and ends it after a while."""

    name: str
    skew_s: float
    holder: LeaseHolder = field(default_factory=LeaseHolder)
    ending: list[tuple[float, int]] = field(default_factory=list)
    awake_s: float = 0.0
    dead: bool = False


class World:
    """Master, workers and a network that loses, doubles, delays and reorders, step by step of 50 ms."""

    def __init__(self, seed: int, rows: int, workers: int, trouble: float, pauses: float) -> None:
        self.random = random.Random(seed)
        self.block = plan([self.random.uniform(0, 6) for _ in range(rows)])
        self.book = LeaseBook(iter([self.block] if rows else []), rows)
        self.workers = [Worker(f"w{i}", self.random.uniform(-0.3, 0.3)) for i in range(workers)]
        self.trouble, self.pauses = trouble, pauses
        self.wire: list[tuple[float, int, str, Lease | Report]] = []
        self.sent: Counter[int] = Counter()
        self.messages = 0
        self.now_s = -1.0

    def post(self, to: str, message: Lease | Report) -> None:
        for _ in range(1 + (self.random.random() < self.trouble)):
            if self.random.random() < self.trouble:
                continue
            self.messages += 1
            late = self.random.uniform(0, 1.0) if self.random.random() < self.trouble else 0.001
            heapq.heappush(self.wire, (self.now_s + late, self.messages, to, message))

    def step(self) -> None:
        self.now_s += 0.05
        if round(self.now_s / 0.05) % 2 == 0:
            for worker, lease in self.book.step(self.now_s):
                self.post(worker, lease)
        while self.wire and self.wire[0][0] <= self.now_s:
            _, _, to, message = heapq.heappop(self.wire)
            if isinstance(message, Report):
                self.book.report(to, message, self.now_s)
            else:
                self.deliver(to, message)
        for worker in self.workers:
            self.run(worker)

    def deliver(self, to: str, lease: Lease) -> None:
        worker = next(worker for worker in self.workers if worker.name == to)
        if worker.dead:
            return
        if worker.awake_s > self.now_s:  # it waits in the socket until the worker wakes
            self.messages += 1
            heapq.heappush(self.wire, (worker.awake_s, self.messages, to, lease))
        else:
            worker.holder.lease(lease)

    def run(self, worker: Worker) -> None:
        if worker.dead or worker.awake_s > self.now_s:
            return
        if self.random.random() < self.pauses:
            worker.awake_s = self.now_s + self.random.uniform(0, 5)
        clock_s = self.now_s + worker.skew_s
        while (row := worker.holder.take_due(clock_s)) is not None:
            self.sent[row.request] += 1
            worker.ending.append((self.now_s + self.random.uniform(0, 2), row.request))
        for end in [end for end in worker.ending if end[0] <= self.now_s]:
            worker.ending.remove(end)
            worker.holder.done(end[1], "ok")
        if self.random.random() < 0.3:
            self.post(worker.name, worker.holder.report(clock_s))

    def until(self, end_s: float) -> None:
        while self.now_s < end_s:
            self.step()


hostile = settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32)


@hostile
@given(
    seeds, st.integers(0, 60), st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.0, 0.01, 0.05])
)
def test_no_row_is_sent_twice_and_every_row_ends_once(
    seed: int, rows: int, workers: int, trouble: float, pauses: float
):
    world = World(seed, rows, workers, trouble, pauses)
    for worker in world.workers:
        world.book.join(worker.name, world.now_s)
    world.until(6.0)
    if len(world.workers) > 1:
        world.workers[0].dead = world.random.random() < 0.5  # kill -9
    world.until(8.0)
    world.trouble = world.pauses = 0.0  # the network heals; everyone still alive comes back
    world.until(20.0)
    assert max(world.sent.values(), default=0) <= 1
    assert world.book.ledger.open == 0
    assert world.book.closed
    assert world.book.ignored == 0
    ledger = world.book.ledger
    assert ledger.planned == rows == ledger["ok"] + ledger["unknown"]
    alive = [worker for worker in world.workers if not worker.dead]
    if len(alive) == len(world.workers) and not trouble:
        assert ledger["unknown"] == 0  # late reports have replaced what was unknown
        assert sum(world.sent.values()) == rows


@hostile
@given(seeds, st.integers(1, 60), st.floats(0, 6), st.sampled_from([0.0, 0.3]))
def test_a_stop_accounts_for_every_row(seed: int, rows: int, stop_s: float, trouble: float):
    world = World(seed, rows, 2, trouble, 0.01)
    for worker in world.workers:
        world.book.join(worker.name, world.now_s)
    world.until(stop_s)
    world.book.stop()
    for worker in world.workers:
        worker.holder.void()
    world.until(stop_s + 4)
    world.book.give_up()
    ledger = world.book.ledger
    lost = [index for block in world.book.unsent() for index in block.index.tolist()]
    unknown = [row.request for _, row in world.book.unknown]
    assert (len(lost), len(unknown)) == (ledger["unsent"], ledger["unknown"])
    assert len({*lost, *unknown}) == len(lost) + len(unknown)
    assert not world.sent.keys() & set(lost)
    assert (ledger.planned, ledger.open) == (rows, 0)
    assert sum(ledger[outcome] for outcome in ("ok", "unsent", "unknown")) == rows
    assert world.book.closed


def two_workers(due_s: list[float]) -> tuple[LeaseBook, dict[str, LeaseHolder]]:
    book = LeaseBook(iter([plan(due_s)]), len(due_s))
    holders = {"a": LeaseHolder(), "b": LeaseHolder()}
    for name in holders:
        book.join(name, 0.0)
    for name, lease in book.step(0.0):
        holders[name].lease(lease)
    return book, holders


def test_rows_are_dealt_in_turn():
    _, holders = two_workers([0.1, 0.2, 0.3, 0.4])
    assert [len(holder) for holder in holders.values()] == [2, 2]
    assert holders["a"].take_due(0.15) == Row(0.1, 0, 7, 3, 0, 0)
    assert holders["b"].take_due(0.15) is None


def test_a_silent_workers_future_goes_to_others_and_its_past_is_unknown():
    book, holders = two_workers([0.5, 0.6, 2.5, 2.6])
    book.report("b", holders["b"].report(1.6), 1.6)
    book.step(1.3)  # a master that had slept itself would give nobody up
    messages = dict(book.step(1.6))
    assert book.ledger["unknown"] == 1  # due at 0.5, leased to a
    assert "a" not in messages
    assert [row.due_s for row in messages["b"].rows] == [2.5]
    assert book.passed_on == 1


def test_a_late_report_replaces_what_was_unknown():
    book, holders = two_workers([0.5, 0.6])
    row = holders["a"].take_due(0.5)
    holders["a"].done(row.request, "http_error")
    book.report("b", holders["b"].report(2.0), 2.0)
    book.step(1.8)
    book.step(2.0)
    assert book.ledger["unknown"] == 1
    book.report("a", holders["a"].report(0.9), 2.1)
    assert (book.ledger["unknown"], book.ledger["http_error"]) == (0, 1)


def test_a_worker_without_news_from_the_master_sends_nothing():
    _, holders = two_workers([0.5, 2.0])
    assert holders["a"].take_due(0.5) is not None
    assert holders["b"].take_due(FENCE_S + 1.5) is None
    assert holders["b"].report(2.5).batches[0].dropped.tolist() == [1]


def test_one_process_needs_no_fence():
    holder = LeaseHolder(fenced=False)
    holder.lease(Lease(0, 0.0, 0, 0, [Row(0.5, 0, 1, 1, 0, 0)]))
    assert holder.take_due(1000.0) is not None


def test_payloads_arrive_once_and_in_order():
    book = LeaseBook(iter([]), 0)
    book.join("a", 0.0)
    holder = LeaseHolder()
    first, second = holder.report(0.1, "one"), holder.report(0.2, "two")
    assert book.report("a", second, 0.2) == []  # the first is missing
    assert book.report("a", first, 0.2) == ["one"]
    assert book.report("a", first, 0.2) == []
    again = holder.report(1.5, None)
    assert book.report("a", again, 1.5) == ["two"]


def test_rows_that_are_given_back_are_leased_again():
    book, holders = two_workers([0.5, 0.6])
    holders["a"].void()
    book.report("a", holders["a"].report(0.1), 0.1)
    rows = [row for _, lease in book.step(0.2) for row in lease.rows]
    assert [row.request for row in rows] == [0]


def test_rows_are_fresh_once():
    book, holders = two_workers([0.5, 0.6])
    assert [block.index.tolist() for block in book.take_fresh()] == [[0, 1]]
    holders["a"].void()
    book.report("a", holders["a"].report(0.1), 0.1)
    book.step(0.2)
    assert book.take_fresh() == []


def test_a_stop_leaves_the_rest_of_a_plan_of_known_size_unsent():
    for planned, rest in ((3, [2]), (None, [])):
        book = LeaseBook(iter([plan([1.0, 2.0, 10.0])]), planned, horizon_s=3.0)
        book.join("a", 0.0)
        book.step(0.0)
        book.stop()
        book.give_up()
        assert [index for block in book.unsent() for index in block.index.tolist()] == rest


def test_reports_are_unconfirmed_until_the_master_says_so():
    holder = LeaseHolder()
    assert not holder.unconfirmed
    holder.report(0.1, "one")
    holder.report(0.2, "two")
    for batches, unconfirmed in ((1, True), (2, False)):
        holder.lease(Lease(0, 0.1, batches))
        assert holder.unconfirmed == unconfirmed
    assert holder.seen_s == 0.1


def test_the_plan_is_leased_no_further_than_its_horizon():
    book = LeaseBook(iter([plan([1.0, 2.0, 10.0])]), 3, horizon_s=3.0)
    book.join("a", 0.0)
    assert sum(len(lease.rows) for _, lease in book.step(0.0)) == 2
    assert not book.leased_all


def test_a_ledger_refuses_to_end_more_than_is_open():
    book = LeaseBook(iter([]), 0)
    with pytest.raises(ValueError, match="1 requests cannot end in 'ok' where 0 are open"):
        book.ledger.end("ok")


def leased(book: LeaseBook, now_s: float) -> dict[str, int]:
    return {name: len(lease.rows) for name, lease in book.step(now_s)}


def test_a_worker_that_falls_behind_gets_less() -> None:
    book = LeaseBook(iter([plan([0.01 * i for i in range(600)])]), 600)
    holders = {"a": LeaseHolder(), "b": LeaseHolder()}
    for name in holders:
        book.join(name, 0.0)
    assert set(leased(book, 0.0).values()) == {151, 150}
    book.report("a", holders["a"].report(0.5, late_s=0.4), 0.5)
    book.report("b", holders["b"].report(0.5), 0.5)
    assert leased(book, 0.6) == {"a": 20, "b": 40}


def test_a_worker_that_leaves_gets_nothing_new_and_is_still_heard() -> None:
    book, holders = two_workers([0.5, 0.6, 3.5, 3.6])
    row = holders["a"].take_due(0.5)
    holders["a"].void()
    book.report("a", holders["a"].report(0.6, leaving=True), 0.6)
    assert leased(book, 0.7) == {"a": 0, "b": 2}
    holders["a"].done(row.request, "ok")
    book.report("a", holders["a"].report(0.9), 0.9)
    assert (book.ledger["ok"], book.ledger["unknown"]) == (1, 0)


def test_rows_stay_with_the_plan_while_everyone_leaves() -> None:
    book, holders = two_workers([3.5])
    for name, holder in holders.items():
        book.report(name, holder.report(0.6, leaving=True), 0.6)
    assert leased(book, 1.0) == {"a": 0, "b": 0}
    book.stop()
    assert book.ledger["unsent"] == 1


def test_a_master_that_slept_hears_what_came_before_it_gives_anyone_up() -> None:
    book, holders = two_workers([0.1, 8.0])
    book.step(0.1)
    book.step(5.0)
    for name, holder in holders.items():
        book.report(name, holder.report(4.9), 5.0)
    book.step(5.1)
    assert book.alive == ["a", "b"]


def test_rows_stay_with_the_plan_while_enough_of_them_wait_for_slots() -> None:
    """What waits on a worker is lost with it: so not more waits there than it may need."""
    book = LeaseBook(iter([plan([0.001 * i for i in range(1000)])]), 1000, horizon_s=0.2, slots=Slots(2))
    holder = LeaseHolder()
    book.join("a", 0.0)
    (name, lease), *_ = book.step(0.0)
    assert lease.limit == Limit(1, 2)
    holder.lease(lease)
    book.report(name, holder.report(0.3, load=Load(1, 2, 100)), 0.3)
    assert leased(book, 0.3) == {"a": 0}
    book.report(name, holder.report(0.4, load=Load(1, 2, 3)), 0.4)
    assert leased(book, 0.4)["a"] > 300
    book.stop()
    assert book.ledger["unsent"] > 300
