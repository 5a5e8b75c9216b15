"""Messages of peers: whatever comes, it is taken or counted and dropped, and the run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thorough import examples

from fineserve_shapes.engine import master
from fineserve_shapes.engine.master import Master
from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.engine.worker import Worker
from fineserve_shapes.leases import messages
from fineserve_shapes.leases.holder import LeaseHolder
from fineserve_shapes.measure.measurements import Outbox
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.runner.mailbox import MAX_WARNINGS, Mailbox
from fineserve_shapes.workload.block import Block

LETTERS = st.text(max_size=5)
FIELDS = st.sampled_from(
    ["run", "start_s", "epoch", "seen_s", "batches", "number", "rows", "limit", "prefixes", "at_s", "leases",
     "late_s", "leaving", "reads", "load", "done", "outcomes", "dropped", "epochs", "payload", "in_flight", "tokens_come",
     "offset_s", "uncertainty_s", "loop_delays", "sent_s", "master_s", "timeout_s", "warmup_s", "logged",
     "token_times", "error", "digest", "machine", "ok", "requests", "records", "sent", "gaps", "itl", "errors"]
)  # fmt: skip
PLAIN = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | LETTERS
    | st.just("this run")
)  # fmt: skip
JUNK = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | LETTERS | st.integers(), inner, max_size=8),
    max_leaves=12,
)
some = settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                                         HealthCheck.too_slow])  # fmt: skip


def block(rows: int) -> Block:
    ones = np.ones(rows, dtype=np.int64)
    return Block(np.arange(rows), 0.01 * np.arange(rows), ones, ones, 0 * ones)


def a_report(run: str) -> dict[str, Any]:
    """What a worker sends that has sent rows 0 and 1."""
    holder, outbox = LeaseHolder(), Outbox()
    holder.done(0, "ok")
    holder.done(1, "timeout")
    outbox.sent(0, 0.1, 0.099)
    taken = outbox.take()
    report = messages.pack_report(holder.report(0.2, None if taken is None else taken[2]))
    return report | {
        "run": run,
        "in_flight": [[0, 2]],
        "tokens_come": [[0, 5]],
        "offset_s": 0.0,
        "uncertainty_s": 0.0,
        "loop_delays": b"",
        "reads": Reads().pack(),
    }


def changed(report: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A report with some of its fields, or of its batch's, replaced by junk."""
    batch = report["batches"][0] | {name: value for name, value in changes.items() if name in report["batches"][0]}
    return report | {"batches": [batch]} | {name: value for name, value in changes.items() if name != "number"}


class Site:
    """A master in the middle of a run with worker w, and the mailbox before it."""

    def __init__(self) -> None:
        self.master = Master(lambda *_: None, lambda: ["w"])
        self.run = Run(iter([block(10)]), 10, Settings(), local=False)
        self.run.id, self.run.start_s = "this run", 0.0
        self.master.run = self.run
        self.run.facts["w"] = {"digest": None}
        self.run.book.join("w", 0.0)
        self.run.book.step(0.5)
        self.mailbox = Mailbox(self.master.dropped)
        self.listeners = {
            listener: self.mailbox.listener_from(listener)
            for listener in (self.master.on_hello, self.master.on_ping, self.master.on_warm, self.master.on_report)
        }

    def send(self, data: Any, sender: Any = "w") -> None:
        for listener in self.listeners.values():
            listener(environment=None, msg=SimpleNamespace(type="fineserve.x", node_id=sender, data=data))


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.run._reading.close()


@some
@given(data=JUNK, sender=st.just("w") | LETTERS)
def test_the_master_survives_any_junk_and_counts_it(site: Site, data: Any, sender: str) -> None:
    before = site.mailbox.count
    site.send(data, sender)
    assert site.mailbox.count - before == site.run.malformed - before
    if not isinstance(data, dict):
        assert site.mailbox.count == before + 4
    ledger = site.run.book.ledger
    assert ledger.planned == sum(ledger.as_dict().values()) - ledger.planned + ledger.open


@some
@given(changes=st.dictionaries(FIELDS, JUNK, min_size=1, max_size=3))
def test_a_report_with_a_field_spoilt_is_counted_or_taken(site: Site, changes: dict[str, Any]) -> None:
    site.send(changed(a_report("this run"), changes))
    ledger = site.run.book.ledger
    assert ledger.open >= 0
    assert site.run.in_flight >= 0


def test_after_all_that_a_good_report_counts(site: Site) -> None:
    for junk in (None, 7, [], {"run": "this run"}, {"digest": [1]}, {"error": 3}):
        site.send(junk)
    site.send(a_report("this run"))
    ledger = site.run.book.ledger
    assert (ledger["ok"], ledger["timeout"]) == (1, 1)
    assert site.run.malformed > 10


def test_who_never_said_hello_is_not_heard(site: Site) -> None:
    site.send(a_report("this run"), "stranger")
    assert "stranger" not in site.run.workers
    assert site.run.book.ledger["ok"] == 0


def test_a_report_from_the_future_is_refused(site: Site) -> None:
    """It would put up the fence for ever."""
    site.send(a_report("this run") | {"at_s": 1e12})
    assert site.run.book.ledger["ok"] == 0


def test_a_report_that_comes_when_the_account_is_closed_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To close it takes a while, in which messages come: their rows stand in the log already, as lost."""
    close = Run.account_for_the_rest

    def hear_and_close(run: Run) -> None:
        site.send(a_report("this run"))
        close(run)

    monkeypatch.setattr(Run, "account_for_the_rest", hear_and_close)
    monkeypatch.setattr(master, "LAST_REPORTS_S", 0.2)
    site.master._greenlet = gevent.spawn(lambda: None)
    site.master.drain(0.0)
    ledger = site.run.book.ledger
    assert (ledger.open, ledger["ok"], ledger["timeout"], ledger["unknown"]) == (0, 0, 0, 10)
    assert not site.run.fold()


def test_nonsense_does_not_fill_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(500):
        site.send({"run": 7, "error": "x" * 10_000})
    assert site.mailbox.count >= 500
    assert len(caplog.records) <= MAX_WARNINGS + 1 + 500  # hello's error is its own line, and there is no run it ends
    assert max(len(record.getMessage()) for record in caplog.records) < 700


class Idle:
    """A performer that has nothing to do."""

    def open(self) -> dict[str, Any]:
        return {}

    def prepare(self, row: Any) -> None:
        return None

    def perform(self, *_: Any) -> Any:
        raise AssertionError

    def warm_up(self, *_: Any) -> Any:
        return None

    def measured(self, *_: Any) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(lambda *_: None, local=False, finished=lambda: None)
    worker.start(Idle())  # type: ignore[arg-type]
    yield worker
    worker.stop()


@settings(some, max_examples=examples(200))
@given(data=JUNK.filter(lambda data: not (isinstance(data, dict) and isinstance(data.get("timeout_s"), float))))
def test_a_worker_survives_any_junk(worker: Worker, data: Any) -> None:
    mailbox = Mailbox()
    for listener in (worker.on_begin, worker.on_lease, worker.on_pong, worker.on_drain, worker.on_warm_up):
        mailbox.listener(listener)(environment=None, msg=SimpleNamespace(type="fineserve.x", node_id="m", data=data))
    if not isinstance(data, dict):
        assert mailbox.count == 5
