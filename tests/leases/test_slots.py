"""Slots: never more requests in flight than allowed over all workers, whatever becomes of messages; and none idle."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from fineserve_shapes.leases.slots import LOST_S, Limit, Load, Slots


class Worker:
    """Starts what waits as far as its limit goes; messages to and from it may be lost, doubled and late."""

    def __init__(self) -> None:
        self.word = Limit(-1, 0)
        self.in_flight = self.waiting = self.ended = 0

    def hear(self, word: Limit) -> None:
        if word.number > self.word.number:
            self.word = word

    def work(self, rng: random.Random, arrivals: int, pace: float) -> None:
        self.waiting += arrivals
        ends = sum(rng.random() < pace for _ in range(self.in_flight))
        self.in_flight -= ends
        self.ended += ends
        begin = min(self.waiting, max(self.word.limit - self.in_flight, 0))
        self.in_flight, self.waiting = self.in_flight + begin, self.waiting - begin

    def load(self) -> Load:
        return Load(self.word.number, self.in_flight, self.waiting)


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 5), st.sampled_from([0.0, 0.2, 0.6]), st.booleans())
def test_never_more_than_the_total_are_in_flight(
    seed: int, total: int, count: int, trouble: float, deaths: bool
) -> None:
    """Also while workers join, sleep for less than LOST_S and come back, and words are lost, doubled and reordered."""
    rng = random.Random(seed)
    slots = Slots(total)
    workers = {f"w{i}": Worker() for i in range(count)}
    away: dict[str, float] = {}
    wire: list[tuple[float, str, Limit | Load]] = []
    for step in range(150):
        now_s = 0.1 * step
        present = [name for i, name in enumerate(workers) if step >= 10 * i and away.get(name, 0.0) <= now_s]
        if deaths and present and rng.random() < 0.05:
            away[rng.choice(present)] = now_s + rng.uniform(0, LOST_S - 1)
        slots.divide(present, now_s)
        assert slots.promised <= total
        for name in present:
            for _ in range(1 + (rng.random() < trouble)):
                if rng.random() >= trouble:
                    late_s = rng.uniform(0, 1) if rng.random() < trouble else 0.0
                    wire.append((now_s + late_s, name, slots.limit(name)))
                if rng.random() >= trouble:
                    late_s = rng.uniform(0, 1) if rng.random() < trouble else 0.0
                    wire.append((now_s + late_s, name, workers[name].load()))
        for at_s, name, word in [item for item in wire if item[0] <= now_s]:
            wire.remove((at_s, name, word))
            if isinstance(word, Limit):
                workers[name].hear(word)
            else:
                slots.reported(name, word, 0, now_s)
        for name in present:
            workers[name].work(rng, rng.choice([0, 0, 1, 5]), 0.2)
        assert sum(worker.in_flight for worker in workers.values()) <= total


@given(st.integers(0, 2**32), st.integers(4, 40))
def test_slots_follow_the_need(seed: int, total: int) -> None:
    """One of two workers has all the work: within a second it has all the slots but one."""
    rng = random.Random(seed)
    slots, busy, idle = Slots(total), Worker(), Worker()
    for step in range(12):
        slots.divide(["busy", "idle"], 0.1 * step)
        for name, worker in (("busy", busy), ("idle", idle)):
            worker.hear(slots.limit(name))
            worker.work(rng, 100 if name == "busy" else 0, 0.5)
            slots.reported(name, worker.load(), 0, 0.1 * step)
    assert busy.word.limit == total - 1


def test_equal_needs_get_equal_parts_and_a_late_joiner_its_own() -> None:
    rng = random.Random(1)
    slots = Slots(10)
    workers = {"a": Worker(), "b": Worker(), "c": Worker()}
    for step in range(60):
        present = list(workers)[: 2 if step < 30 else 3]
        slots.divide(present, 0.1 * step)
        for name in present:
            workers[name].hear(slots.limit(name))
            workers[name].work(rng, 20, 0.3)
            slots.reported(name, workers[name].load(), 0, 0.1 * step)
        if step == 29:
            assert [workers[name].in_flight for name in "ab"] == [5, 5]
    assert sorted(worker.word.limit for worker in workers.values()) == [3, 3, 4]


def test_fewer_slots_than_workers_leave_some_without_rows_but_no_slot_idle() -> None:
    slots = Slots(1)
    slots.divide(["a", "b"], 0.0)
    assert sorted(slots.limit(name).limit for name in "ab") == [0, 1]
    assert [slots.hungry(name) for name in "ab"].count(True) == 1


def test_a_lost_workers_slots_are_free_after_a_while() -> None:
    slots = Slots(4)
    slots.divide(["a", "b"], 0.0)
    for now_s in (1.0, LOST_S - 1):
        slots.divide(["b"], now_s)
        assert slots.limit("b").limit == 2
    slots.divide(["b"], LOST_S + 1)
    assert slots.limit("b").limit == 4


def test_a_worker_where_many_wait_gets_no_more() -> None:
    slots = Slots(4)
    slots.divide(["a"], 0.0)
    assert slots.hungry("a")
    slots.reported("a", Load(1, 4, 100), 0, 0.1)
    assert not slots.hungry("a")
    slots.reported("a", Load(1, 4, 100), 60, 0.2)  # they are short: so many end in a second
    assert slots.hungry("a")
