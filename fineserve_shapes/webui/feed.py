"""Feed: the run that is shown, as plain values for readers that poll. No web framework."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fineserve_shapes.measure.currentrate import Flow
from fineserve_shapes.measure.fidelity import Process
from fineserve_shapes.measure.ledger import Ledger, Ledgers, done, failed
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.streamrows import stream_row
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.text import MAX_CHARS, clipped

if TYPE_CHECKING:
    from fineserve_shapes.client.scrape import ServerScrape

RATE_OVER_S = 10.0
MAX_ERRORS = 10
MAX_STREAMS = 16
"""So many streams' columns in one answer at most: the first of those that were asked for."""
FRESH_S = 0.5
"""Readers that ask within that time get the same figures."""


class Book(Protocol):
    """What holds the ledger: a `LeaseBook`.

    ledgers: of the run and, in a mix, of its streams.
    """

    ledgers: Ledgers

    @property
    def ledger(self) -> Ledger:
        """What became of the plan's rows."""


class Watched(Protocol):
    """A run, as far as it is looked at."""

    id: str
    tally: Tally
    flow: Flow
    workers: dict[str, Process]
    stopping: bool

    @property
    def book(self) -> Book:
        """What holds the ledger: a `LeaseBook`."""

    @property
    def now_s(self) -> float:
        """Seconds since the start of the run; minus infinity before it is set."""

    def in_flight_by_stream(self) -> dict[int, int]:
        """Requests sent and not ended."""

    def fidelity(self) -> dict[str, Any]:
        """As `judge` has it."""

    def fidelity_of_streams(self) -> dict[str, dict[str, Any]]:
        """The same of each stream by its name; nothing where the run is no mix."""


class Feed:
    """The newest run, going on or over; none before the first.

    run: it. scrapes: of its servers' own metrics, one for each host that has any.
    """

    def __init__(self) -> None:
        self.run: Watched | None = None
        self.scrapes: Sequence[ServerScrape] = ()
        self._about: Callable[[], Mapping[str, Any]] = dict
        self._end_s: float | None = None
        self._figures: tuple[float, dict[str, Any]] = (-math.inf, {})
        self._at_most: dict[str, Any] | None = None

    def begin(self, run: Watched, about: Callable[[], Mapping[str, Any]], scrapes: Sequence[ServerScrape] = ()) -> None:
        """A run begins.

        about: what is to be said of it, which may grow while it gets ready; under `models` those of streams by name.
        """
        self.run, self.scrapes, self._about, self._end_s = run, scrapes, about, None
        self._figures, self._at_most = (-math.inf, {}), None

    def finish(self) -> None:
        """The run is over: its figures stay until the next begins."""
        if self.run is not None:
            self._end_s = max(self.run.now_s, 0.0)
            self._figures = (-math.inf, {})

    @property
    def over(self) -> bool:
        """Whether the run that is shown has ended."""
        return self._end_s is not None

    def in_flight(self) -> dict[str, int]:
        """Requests in flight, by the stream's name."""
        run = self.run
        if run is None or self.over:
            return {}
        return {run.tally.names.of(stream): count for stream, count in run.in_flight_by_stream().items()}

    def read(
        self, run: str = "", version: int = 0, streams: Collection[str] = (), servers_s: Sequence[float] = ()
    ) -> dict[str, Any]:
        """What has changed since a reader of this run last asked, as plain values.

        run, version: those of its last answer; another run, or version 0, gives everything. streams: names of those whose
        columns are wanted beside the total's, at most MAX_STREAMS. servers_s: the time of the last sample that it has of
        each server.

        `run` (None before the first), `state`, `elapsed_s`, `now`, `table` (as `Tally.table` has it), `bounds` (as
        `Tally.bounds` has them; None while the run goes on), `rows` (in a mix:
        the `total`'s, and those of the `streams` in the order of their numbers; see `stream_row`), `ledger`, `errors`,
        `fidelity` (as `judge` has it), `version`, `series` (as `Series.as_dict` has it; None where nothing changed) and
        `servers`: each server's own figures, as `url`, `status` and `series`.
        """
        if self.run is None:
            return {"run": None, "state": "none"}
        now_s = time.monotonic()
        if now_s - self._figures[0] > FRESH_S:
            self._figures = (now_s, self._look())
        changes = self.run.tally.series.changes
        version = version if run == self.run.id and 0 <= version <= changes.version else 0
        since_s = changes.since(version)
        return {
            **self._figures[1],
            "version": changes.version,
            "series": None if since_s is None else self._series(since_s if version else 0, streams),
            "servers": self._servers(servers_s if version else ()),
        }

    def _look(self) -> dict[str, Any]:
        run = self.run
        assert run is not None
        elapsed_s = max(run.now_s, 0.0) if self._end_s is None else self._end_s
        ledger = run.book.ledger
        total = run.tally.total
        about = dict(self._about())
        models = about.pop("models", {})
        table = run.tally.table()
        return {
            "run": run.id,
            "about": {name: bounded(value) for name, value in about.items()},
            "state": self._state(run),
            "elapsed_s": elapsed_s,
            "now": self._now(run, elapsed_s),
            "table": table,
            "bounds": self._bounds(run),
            "rows": self._rows(run, models, table),
            "ledger": {**ledger.as_dict(), "open": ledger.open, "done": done(ledger), "failed": failed(ledger)},
            "errors": [
                {"outcome": outcome, "error": bounded(text), "requests": count}
                for (outcome, text), count in total.errors.most_common(MAX_ERRORS)
            ],
            "fidelity": run.fidelity(),
        }

    def _bounds(self, run: Watched) -> dict[str, Any] | None:
        """What tails are at most, once the run is over: it takes too long to be done beside what is due."""
        if self.over and self._at_most is None:
            self._at_most = run.tally.bounds()
        return self._at_most if self.over else None

    def _state(self, run: Watched) -> str:
        if self.over:
            return "over"
        if run.stopping:
            return "stopping"
        return "running" if run.now_s >= 0 else "starting"

    def _now(self, run: Watched, elapsed_s: float) -> dict[str, Any]:
        """Figures of the moment. What becomes known with the end of an answer has the rate of a while ago."""
        e2e_s = run.tally.total.latencies["e2e_latency"].quantile(0.9) or 0.0
        settled_s = max(elapsed_s - (0.0 if self.over else e2e_s), min(elapsed_s, RATE_OVER_S))
        begin_s, end_s = (0.0, elapsed_s) if self.over else (max(settled_s - RATE_OVER_S, 0.0), settled_s)
        over_s = max(math.floor(end_s) - math.floor(begin_s), 1)

        def rate(name: str) -> float:
            return run.tally.series.between(name, math.floor(begin_s), math.floor(begin_s) + over_s) / over_s

        output_tps, output_over_s, output_ago_s = rate("output_tokens"), float(over_s), max(elapsed_s - end_s, 0.0)
        if not self.over and run.flow.rate is not None:
            output_tps, output_over_s, output_ago_s = run.flow.rate, run.flow.over_s, 0.0
        total, window, slo = run.tally.total, run.tally.window, run.tally.slo
        return {
            "in_flight": sum(self.in_flight().values()),
            "rate_over_s": over_s,
            "rate_ago_s": max(elapsed_s - end_s, 0.0),
            "input_tokens_per_s": rate("input_tokens"),
            "output_tokens_per_s": output_tps,
            "output_over_s": output_over_s,
            "output_ago_s": output_ago_s,
            "judged": slo is not None,
            "slo": slo.as_dict() if isinstance(slo, Slo) else None,
            "good_rps": None if slo is None else window.per_s(total.good),
            "good_share": self._good_share(run),
        }

    def _rows(self, run: Watched, models: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any] | None:
        names, ledgers = run.tally.names, run.book.ledgers
        if not names.mixed:
            return None
        in_flight = self.in_flight()
        judged = run.fidelity_of_streams()
        return {
            "total": stream_row(
                table["total"],
                ledgers.total.as_dict(),
                run.fidelity(),
                self._good_share(run),
                in_flight=sum(in_flight.values()),
            ),
            "streams": [
                {"name": name}
                | stream_row(
                    table["streams"][name],
                    ledgers.by_stream[number].as_dict(),
                    judged[name],
                    self._good_share(run, number),
                    bounded(models.get(name)),
                    in_flight.get(name, 0),
                )
                for number, name in enumerate(names.names)
            ],
        }

    def _good_share(self, run: Watched, stream: int | None = None) -> float | None:
        """Of requests that have ended, those of streams that have an SLO; the warm-up's left out."""
        tally, ledgers = run.tally, run.book.ledgers
        if not tally.names.mixed:
            judged = [] if tally.slo is None else [(ledgers.total, tally.planned_in_warmup, tally.total.good)]
        else:
            parts = [(ledgers.by_stream[number], tally.of(number)) for number in range(len(tally.names.names))]
            wanted = parts if stream is None else parts[stream : stream + 1]
            judged = [
                (ledger, part.planned_in_warmup, part.totals.good) for ledger, part in wanted if part.slo is not None
            ]
        ended = sum(ledger.planned - ledger.open - in_warmup for ledger, in_warmup, _ in judged)
        return sum(good for _, _, good in judged) / ended if ended > 0 else None

    def _series(self, since_s: float, streams: Collection[str]) -> dict[str, Any]:
        assert self.run is not None
        return self.run.tally.series.as_dict(since_s, list(streams)[:MAX_STREAMS])

    def _servers(self, after_s: Sequence[float]) -> list[dict[str, Any]]:
        known_s = [*after_s[: len(self.scrapes)], *[-math.inf] * (len(self.scrapes) - len(after_s))]
        return [
            {"url": bounded(scrape.url), "status": bounded(scrape.status), "series": scrape.series.as_dict(last_s)}
            for scrape, last_s in zip(self.scrapes, known_s, strict=True)
        ]


def bounded(value: Any) -> Any:
    """Text of a bounded length; other values as they are."""
    return clipped(value, MAX_CHARS) if isinstance(value, str) else value
