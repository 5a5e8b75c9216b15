"""Ledger: every planned request ends in exactly one outcome."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from fineserve_shapes.arrays import IntArray

OUTCOMES = (
    "ok",
    "http_error",
    "stream_error",
    "timeout",
    "connect_error",
    "cancelled",
    "unsent",
    "unknown",
)
"""ok: a whole answer. http_error: a status other than 200. stream_error: an answer that broke, or that reports an error.
timeout: no progress, or no end, within its deadline. connect_error: no connection. cancelled: in flight when the run was
stopped. unsent: due before the run's end, but the run stopped first. unknown: leased to a worker that fell silent."""

OK = OUTCOMES.index("ok")

FAILURES = OUTCOMES[1:5]
"""Outcomes that are the server's or the network's failure."""

ASIDE = OUTCOMES[5:]
"""Outcomes that are neither an answer nor a failure: what we cancelled, did not send, or do not know."""


class Ledger:
    """Counts of planned requests and of their outcomes.

    `planned == sum of outcomes + open` always; a run is over when nothing is open.
    """

    def __init__(self) -> None:
        self.planned = 0
        self._ended = dict.fromkeys(OUTCOMES, 0)

    @property
    def open(self) -> int:
        """Planned requests without an outcome so far."""
        return self.planned - sum(self._ended.values())

    def plan(self, requests: int) -> None:
        """So many more requests are planned."""
        self.planned += requests

    def end(self, outcome: str, requests: int = 1) -> None:
        """So many open requests end in this outcome."""
        if not 0 <= requests <= self.open:
            raise ValueError(f"{requests} requests cannot end in {outcome!r} where {self.open} are open")
        self._ended[outcome] += requests

    def reopen(self, outcome: str) -> None:
        """One request that was booked under this outcome is open again: its worker came back and knows better."""
        if self._ended[outcome] < 1:
            raise ValueError(f"no request is booked as {outcome!r}")
        self._ended[outcome] -= 1

    def __getitem__(self, outcome: str) -> int:
        return self._ended[outcome]

    def as_dict(self) -> dict[str, int]:
        """`planned` and every outcome by name."""
        return {"planned": self.planned, **self._ended}


class Ledgers:
    """The ledger of a run, and that of each stream where it is a mix.

    total: of the run. by_stream: by number; empty where the run is no mix.
    """

    def __init__(self, *, mixed: bool = False) -> None:
        self.total = Ledger()
        self.by_stream: defaultdict[int, Ledger] = defaultdict(Ledger)
        self._mixed = mixed

    def plan(self, streams: IntArray) -> None:
        """One more request of each of these streams is planned, shape (n,)."""
        self.total.plan(len(streams))
        self.plan_of_streams(streams)

    def plan_of_streams(self, streams: IntArray) -> None:
        """The same for requests that the total has already."""
        if self._mixed:
            for stream, count in zip(*np.unique(streams, return_counts=True), strict=True):
                self.by_stream[int(stream)].plan(int(count))

    def end(self, outcome: str, stream: int) -> None:
        """An open request of this stream ends so."""
        self.total.end(outcome)
        self.end_of_stream(outcome, stream)

    def end_of_stream(self, outcome: str, stream: int, requests: int = 1) -> None:
        """The same for requests that have ended in the total already."""
        if self._mixed:
            self.by_stream[stream].end(outcome, requests)

    def reopen(self, outcome: str, stream: int) -> None:
        """A request that was booked under this outcome is open again."""
        self.total.reopen(outcome)
        if self._mixed:
            self.by_stream[stream].reopen(outcome)


def done(ledger: Ledger) -> int:
    """How many requests were answered or failed."""
    return ledger["ok"] + failed(ledger)


def failed(ledger: Ledger) -> int:
    """How many requests ended in a failure."""
    return sum(ledger[outcome] for outcome in FAILURES)
