"""Performer: from a row of the plan to a call of the locustfile's user class."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gevent

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases.lease import Row
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.measure.records import Records
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.runner.environment import Environment
from fineserve_shapes.runner.statistics import LocustStatistics
from fineserve_shapes.streams import Stream, names_of, published
from fineserve_shapes.users import ArrivalUser, PlannedRequest, failure

logger = logging.getLogger(__name__)

_LAST_INDEX = 2**32 - 1  # prompts differ for all indices up to there


class UserPerformer:
    """Turns rows into calls of the locustfile's user classes, and results into Locust's events and statistics.

    Each stream has a user of its own.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._streams: tuple[Stream, ...] = ()
        self._users: dict[int, ArrivalUser] = {}
        self._names = Names()
        self._statistics = LocustStatistics(environment, self._names)

    def open(self) -> dict[str, Any]:
        """Make the users and get them ready.

        The facts of the user where there is one; in a mix `streams`: the facts of each by the stream's name.
        """
        self._streams = published(self._environment.parsed_options)
        self._names = names_of(self._streams)
        self._statistics = LocustStatistics(self._environment, self._names)
        facts: dict[str, dict[str, Any]] = {}
        try:
            for stream in self._streams:
                facts[stream.name] = self._open(stream)
        except BaseException:
            self.close()
            raise
        return {"streams": facts} if self._names.mixed else facts[self._streams[0].name]

    def prepare(self, row: Row) -> Any:
        """What the user makes ahead of time."""
        return self._users[row.stream].prepare(self._planned("", row, None))

    def perform(self, run: str, row: Row, prepared: Any) -> Result:
        """Call the user, and fire Locust's request event."""
        user = self._users[row.stream]
        sent_s = time.perf_counter()
        request = self._planned(run, row, prepared)
        shown: Result | None = None
        try:
            if prepared is None:
                request = self._planned(run, row, user.prepare(request))
            shown = user.perform(request)
            result = shown or Result(Outcome.OK, None, sent_s, time.perf_counter())
            user.result(request, result)
        except gevent.GreenletExit:
            result = Result(Outcome.CANCELLED, "the run was stopped", sent_s, time.perf_counter())
        except Exception as error:
            logger.debug("request %s failed", request.id, exc_info=True)
            shown = result = failure(error, sent_s)
        if shown is not None and result.outcome != Outcome.CANCELLED:
            self._statistics.request(user.name_of(request), request, shown)
        return result

    def warm_up(self, run: str, row: Row) -> Result:
        """Call the user without recording the request; its prompt is one that no request of the plan has."""
        user = self._users[row.stream]
        sent_s = time.perf_counter()
        index = _LAST_INDEX - row.request
        request = PlannedRequest(f"{run}-w{row.request}", index, 0.0, row.input_tokens, row.output_tokens,
                                 self._streams[row.stream], index)  # fmt: skip
        try:
            result = user.perform(replace(request, prepared=user.prepare(request)))
        except gevent.GreenletExit:
            return Result(Outcome.CANCELLED, "the warm-up took too long", sent_s, time.perf_counter())
        except Exception as error:
            return failure(error, sent_s)
        return result or Result(Outcome.OK, None, sent_s, time.perf_counter())

    def first_tokens(self) -> list[tuple[PlannedRequest, float, float]]:
        """All users'."""
        return [told for user in self._users.values() for told in user.first_tokens()]

    def take_reads(self) -> Reads:
        """All users'."""
        reads = Reads()
        for user in self._users.values():
            reads.merge(user.take_reads())
        return reads

    def tokens_come(self) -> Mapping[int, int]:
        """By the users that can tell."""
        told = {number: user.tokens_come() for number, user in self._users.items()}
        return {number: tokens for number, tokens in told.items() if tokens is not None}

    def measured(self, rows: Records, itl_s: Mapping[int, FloatArray]) -> None:
        """Show their latencies in Locust's statistics."""
        self._statistics.measured(rows, itl_s)

    def close(self) -> None:
        """The run is over."""
        users, self._users = self._users, {}
        for user in users.values():
            try:
                user.on_stop()
            finally:
                user.close()

    def _open(self, stream: Stream) -> dict[str, Any]:
        classes = [found for found in self._environment.user_classes if issubclass(found, ArrivalUser)]
        wanted = [found for found in classes if stream.user in (None, found.__name__)]
        if len(wanted) != 1:
            names = ", ".join(found.__name__ for found in classes) or "none"
            asked = f"a user class called {stream.user}" if stream.user else "one ArrivalUser class in the locustfile"
            who = f"the stream {stream.name}" if stream.mixed else "a plan of one stream"
            raise InputError(f"{who} takes {asked}, found {names}")
        user = wanted[0](self._environment)
        try:
            facts: dict[str, Any] = user.open(stream)
        except InputError as error:
            if not stream.mixed:
                raise
            raise InputError(f"stream {stream.name}: {error}") from None
        try:
            user.on_start()
        except BaseException:
            user.close()
            raise
        self._users[stream.number] = user
        return facts

    def _planned(self, run: str, row: Row, prepared: Any) -> PlannedRequest:
        return PlannedRequest(
            self._names.request_id(run, row.stream, row.request, row.position), row.request, row.due_s,
            row.input_tokens, row.output_tokens, self._streams[row.stream], row.position, prepared, row.prefix,
        )  # fmt: skip
