"""Statistics: what became of requests, in Locust's own tables."""

from __future__ import annotations

import time
from collections.abc import Mapping

import locust.stats
import numpy as np
from locust.stats import StatsEntry

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.measure import records
from fineserve_shapes.measure.errorkinds import ErrorKinds
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.records import Records
from fineserve_shapes.outcome import OK, Outcome
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.runner.environment import Environment
from fineserve_shapes.text import shorten
from fineserve_shapes.users import PlannedRequest

METRIC = "METRIC"


class LocustStatistics:
    """Shows requests in Locust's statistics, and their latencies as rows of their own. names: of the streams."""

    def __init__(self, environment: Environment, names: Names) -> None:
        self._environment = environment
        self._names = names
        self._kinds = ErrorKinds()

    def request(self, name: tuple[str, str], request: PlannedRequest, result: Result) -> None:
        """One request event per request that was answered or failed, so that RPS, failures and Aggregated are true.

        What we cancelled is neither: the ledger counts it.
        """
        self._environment.events.request.fire(
            request_type=name[0],
            name=self._named(request.stream.number, name[1]),
            response_time=1e3 * result.e2e_s,
            response_length=result.body_bytes,
            exception=None if result.outcome == Outcome.OK else RequestFailure(self._kind(result)),
            context={"id": request.id, "index": request.index},
            start_time=time.time() - (time.perf_counter() - result.sent_s),
        )

    def measured(self, rows: Records, itl_s: Mapping[int, FloatArray]) -> None:
        """Show metrics of requests that ended as rows of their own, those of a mix by stream."""
        for stream in np.unique(rows["stream"]).tolist():
            mine = rows[rows["stream"] == stream]
            ok = mine[mine["outcome"] == OK]
            for metric, values_s in (
                ("TTFT", records.ttft_s(ok)),
                ("TPOT", records.tpot_s(ok)),
                ("ITL", itl_s.get(stream, np.empty(0))),
                ("lag", np.maximum(records.lag_s(mine), 0.0)),
            ):
                self._log(self._named(stream, metric), 1e3 * values_s)
            self._log(self._named(stream, "output tokens"), ok["output_tokens"].astype(np.float64))

    def _named(self, stream: int, name: str) -> str:
        return f"{self._names.of(stream)} {name}" if self._names.mixed else name

    def _kind(self, result: Result) -> str:
        """What Locust's failures tab shows: it has a row for every distinct text."""
        return f"{result.outcome}: {self._kinds.name(result.outcome, shorten(result.error or ''))}"

    def _log(self, metric: str, values: FloatArray) -> None:
        """Add values to a METRIC row, as `StatsEntry.log` does one by one: not as requests, which count in the totals."""
        values = values[values >= 0]  # neither NaN (no such moment) nor -1 (not known)
        if not len(values):
            return
        entry: StatsEntry = self._environment.stats.entries[(metric, METRIC)]
        now_s = time.time()
        entry.num_requests += len(values)
        entry.num_reqs_per_sec[int(now_s)] += len(values)
        entry.last_request_timestamp = now_s
        entry.total_response_time += float(values.sum())
        least = float(values.min())
        entry.min_response_time = least if entry.min_response_time is None else min(entry.min_response_time, least)
        entry.max_response_time = max(entry.max_response_time, float(values.max()))
        distinct, counts = np.unique(np.round(values, 1), return_counts=True)
        for value, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            entry.response_times[locust.stats.bucket_response_time(value)] += count


class RequestFailure(Exception):
    """Why a request failed, as Locust's failures tab shows it."""
