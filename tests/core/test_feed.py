"""What the tab's JSON route tells: whole at first, then only what changed; and what polling costs."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from measured import measurements, record

from fineserve_shapes.measure.currentrate import Flow
from fineserve_shapes.measure.fidelity import Accounts, Limits, Process, judge
from fineserve_shapes.measure.ledger import Ledgers
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.records import from_rows
from fineserve_shapes.measure.serverseries import ServerSeries
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.text import MAX_CHARS
from fineserve_shapes.webui import feed as feed_module
from fineserve_shapes.webui.feed import MAX_STREAMS, Feed


class FakeRun:
    """A run whose time the test sets."""

    def __init__(self, now_s: float = 0.0, streams: tuple[str, ...] = ()) -> None:
        self.id = "r1"
        self.tally = Tally(Slo.parse("ttft=500ms"), names=Names(streams, True) if streams else None)
        self.book = self
        self.ledgers = Ledgers(mixed=bool(streams))
        self.ledger = self.ledgers.total
        self.flow = Flow()
        self.workers: dict[str, Process] = {}
        self.stopping = False
        self.now_s = now_s

    def in_flight_by_stream(self) -> dict[int, int]:
        return {0: 3, 1: 4}

    def fidelity(self) -> dict[str, Any]:
        return judge(self.tally.delivery, self.tally.total, Accounts(), {}, Limits())

    def fidelity_of_streams(self) -> dict[str, Any]:
        return {
            name: judge(part.delivery, part.totals, Accounts(), {}, Limits(), also=[f"{name} is late"])
            for name, part in self.tally.streams.items()
        }

    def take(self, rows: list[tuple[object, ...]], **options: Any) -> None:
        streams = from_rows(rows)["stream"]
        self.ledgers.plan(streams)
        self.tally.add(measurements(rows, **options))
        for stream in streams.tolist():
            self.ledgers.end("ok", stream)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "FRESH_S", -1.0)


def begun(run: FakeRun, **about: object) -> Feed:
    feed = Feed()
    feed.begin(run, lambda: about)
    return feed


def test_before_the_first_run_there_is_none():
    assert Feed().read() == {"run": None, "state": "none"}


def test_states_follow_the_run():
    run = FakeRun(now_s=float("-inf"))
    feed = begun(run)
    states = [feed.read()["state"]]
    run.now_s = 1.0
    states.append(feed.read()["state"])
    run.stopping = True
    states.append(feed.read()["state"])
    feed.finish()
    states.append(feed.read()["state"])
    assert states == ["starting", "running", "stopping", "over"]
    assert feed.read()["now"]["in_flight"] == 0


def test_tokens_are_seen_as_they_come_and_in_the_end_over_the_whole_run():
    run = FakeRun(now_s=2.0)
    feed = begun(run)
    run.flow.note(0.0, 0)
    run.flow.note(2.0, 100)  # of answers that have not ended
    now = feed.read()["now"]
    assert (now["output_tokens_per_s"], now["output_over_s"], now["output_ago_s"]) == (50.0, 2.0, 0.0)
    run.take([record(0, output_tokens=100)])
    run.now_s = 10.0
    feed.finish()
    now = feed.read()["now"]
    assert (now["output_tokens_per_s"], now["output_over_s"]) == (pytest.approx(10.0), 10.0)


def merge(series: dict[str, Any], told: dict[str, Any] | None) -> dict[str, Any]:
    """What the page does with an answer: slots from the first that changed take the place of those that were there."""
    if told is None:
        return series
    keep = sum(start < (told["start_s"] or [float("inf")])[0] for start in series["start_s"]) if series else 0

    def join(before: Any, after: Any) -> Any:
        if isinstance(after, list):
            return (before or [])[:keep] + after
        return {name: join((before or {}).get(name), column) for name, column in after.items()}

    return {name: join(series.get(name), told[name]) for name in ("start_s", "width_s", "total", "streams")}


def test_answers_put_together_are_the_whole():
    """Requests come in with their end, some of them half a minute after their first token."""
    rng = np.random.default_rng(5)
    run = FakeRun(streams=("chat", "code"))
    feed = begun(run)
    known, version, sizes = {}, 0, []
    for second in range(120):
        run.now_s = float(second)
        ends = second + rng.random(20)
        firsts = np.maximum(ends - rng.exponential(8.0, 20), 0.0)
        run.take([record(100 * second + i, stream=i % 2, due_s=firsts[i] - 0.1, sent_s=firsts[i] - 0.1,
                         first_token_s=firsts[i], last_token_s=ends[i], end_s=ends[i]) for i in range(20)])  # fmt: skip
        told = feed.read("r1", version, ("chat", "code"))
        known, version = merge(known, told["series"]), told["version"]
        sizes.append(len(told["series"]["start_s"]))
        assert feed.read("r1", version)["series"] is None
    whole = feed.read(streams=("chat", "code"))["series"]
    assert known == {name: whole[name] for name in known}
    assert np.mean(sizes[60:]) < 60  # and not the whole each time


@pytest.mark.parametrize(("run", "version"), [("other", 3), ("r1", 10**9), ("r1", -1)])
def test_a_reader_of_something_else_gets_everything(run: str, version: int):
    shown = FakeRun(2.0)
    shown.take([record(0), record(10)])
    told = begun(shown).read(run, version)
    assert told["series"]["start_s"][0] == 0


def test_streams_can_be_asked_for_beside_the_total():
    """Each that there is has as many slots as the total, of zeros where nothing of it came about."""
    run = FakeRun(2.0, ("chat", "code", "batch"))
    run.take([record(0), record(1, stream=1), record(2, stream=1)])
    feed = begun(run)
    found = feed.read(streams=("code", "batch", "nobody"))["series"]
    assert sum(found["total"]["ok"]) == 3
    assert {name: columns["ok"] for name, columns in found["streams"].items()} == {"code": [2], "batch": [0]}
    assert feed.read()["series"]["streams"] == {}


def test_an_answer_has_the_columns_of_so_many_streams_and_no_more():
    names = tuple(f"s{number}" for number in range(40))
    run = FakeRun(2.0, names)
    run.take([record(0, stream=39)])
    assert list(begun(run).read(streams=names)["series"]["streams"]) == list(names[:MAX_STREAMS])


def test_a_mix_has_a_row_for_each_stream_and_the_total():
    """Names that look like numbers keep their place, and what is good is a share of each stream's own requests."""
    run = FakeRun(2.0, ("chat", "7"))
    slow = record(2, stream=1, first_token_s=1.2, first_visible_s=1.2, last_token_s=1.4, end_s=1.41)
    run.take([record(0), record(1, stream=1), slow, record(3, stream=1)])
    rows = begun(run, models={"chat": "small", "7": "x" * 10_000}).read()["rows"]
    chat, seven, total = *rows["streams"], rows["total"]
    assert [row["name"] for row in rows["streams"]] == ["chat", "7"]
    assert [row["planned"] for row in (chat, seven, total)] == [1, 3, 4]
    assert [row["ok"] for row in (chat, seven, total)] == [1, 3, 4]
    assert [row["in_flight"] for row in (chat, seven, total)] == [3, 4, 7]
    assert [row["good_share"] for row in (chat, seven, total)] == [1.0, pytest.approx(2 / 3), 0.75]
    assert [row["reasons"] for row in rows["streams"]] == [["chat is late"], ["7 is late"]]
    assert (chat["model"], len(seven["model"]), total["model"]) == ("small", MAX_CHARS, None)
    assert chat["ttft_p50_ms"] == pytest.approx(200, rel=0.01)


def test_streams_without_an_slo_have_no_share_that_is_good_and_count_in_none():
    run = FakeRun(2.0, ("chat", "batch"))
    run.tally = Tally(Slos((Slo.parse("ttft=500ms"), None)), names=run.tally.names)
    run.take([record(0), record(1, stream=1), record(2, stream=1)])
    told = begun(run).read()
    assert [row["good_share"] for row in (*told["rows"]["streams"], told["rows"]["total"])] == [1.0, None, 1.0]
    assert (told["now"]["judged"], told["now"]["slo"], told["now"]["good_share"]) == (True, None, 1.0)


def test_a_run_that_is_no_mix_has_no_rows():
    run = FakeRun(2.0)
    run.take([record(0)])
    assert begun(run).read()["rows"] is None


class Scrape:
    """What one server has said of itself, at these times."""

    def __init__(self, url: str, *at_s: float) -> None:
        self.url, self.status, self.series = url, "ok", ServerSeries()
        for time_s in at_s:
            self.series.add(time_s, {"running": time_s})


def test_each_server_is_read_from_its_own_last_sample():
    run = FakeRun(5.0)
    run.take([record(0)])
    feed = Feed()
    feed.begin(run, dict, [Scrape("http://a/metrics", 1.0, 2.0), Scrape("http://b/metrics", 1.5, 2.5)])
    version = feed.read()["version"]

    def seen(*servers_s: float) -> list[list[float]]:
        return [found["series"]["at_s"] for found in feed.read("r1", version, (), servers_s)["servers"]]

    assert seen(1.0, 2.5) == [[2.0], []]
    assert seen(1.0) == [[2.0], [1.5, 2.5]]
    assert seen(1.0, 1.5, 9.0, 9.0) == [[2.0], [2.5]]
    assert [found["series"]["at_s"] for found in feed.read("r1", 0, (), (9.0, 9.0))["servers"]] == [[1, 2], [1.5, 2.5]]


def test_hostile_text_is_bounded_and_plain_json():
    run = FakeRun(2.0)
    text = "<script>'\"=cmd()\n" * 100_000
    run.take([record(0)], error=("http_error", text))
    told = begun(run, model=text, host=text).read()
    assert len(told["about"]["model"]) == MAX_CHARS
    assert len(json.dumps(told)) < 20_000


def test_polling_costs_less_than_a_percent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """An hour of 20 requests a second in two streams, polled every two seconds in its last minutes."""
    monkeypatch.undo()
    run = FakeRun(streams=("chat", "code"))
    feed = begun(run)
    rng = np.random.default_rng(1)
    version, spent_s, polls = 0, 0.0, 0
    for second, step_s in [*((second, 40) for second in range(0, 3400, 40)), *((s, 2) for s in range(3400, 3600, 2))]:
        run.now_s = float(second)
        ends = second + step_s * rng.random(20 * step_s)
        run.take([record(20 * second + i, stream=i % 2, due_s=end_s - 10.2, sent_s=end_s - 10.2,
                         first_token_s=end_s - 10, last_token_s=end_s, end_s=end_s)
                  for i, end_s in enumerate(ends)])  # fmt: skip
        if step_s == 2:
            feed._figures = (-float("inf"), {})
            begin_s = time.process_time()
            told = feed.read("r1", version, ("chat", "code"))
            json.dumps(told)
            spent_s += time.process_time() - begin_s
            version, polls = told["version"], polls + 1
    begin_s = time.process_time()
    size = len(json.dumps(feed.read(streams=("chat", "code"))))
    whole_s = time.process_time() - begin_s
    each_s = spent_s / polls
    with capsys.disabled():
        print(f"\na poll: {1e3 * each_s:.1f} ms of CPU, {each_s / 2:.2%} of a core at one in 2 s;"
              f" the whole after an hour: {1e3 * whole_s:.0f} ms, {size / 1e6:.2f} MB")  # fmt: skip
    assert each_s / 2 < 0.01
