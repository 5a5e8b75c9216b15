"""Outcome: how a planned request ended. Every one ends in exactly one of these."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """A member is its name as results have it; its place among the members is its code in messages and records.

    OK: a whole answer. HTTP_ERROR: a status other than 200. STREAM_ERROR: an answer that broke, or that reports an error.
    TIMEOUT: no progress, or no end, within its deadline. CONNECT_ERROR: no connection. CANCELLED: in flight when the run
    was stopped. UNSENT: due before the run's end, but the run stopped first. UNKNOWN: leased to a worker that fell silent.
    """

    OK = "ok"
    HTTP_ERROR = "http_error"
    STREAM_ERROR = "stream_error"
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"
    CANCELLED = "cancelled"
    UNSENT = "unsent"
    UNKNOWN = "unknown"


OUTCOMES = tuple(outcome.value for outcome in Outcome)
"""Their names, in the order of their codes."""

OK = OUTCOMES.index(Outcome.OK)
"""The code of a whole answer."""

FAILURES = (Outcome.HTTP_ERROR, Outcome.STREAM_ERROR, Outcome.TIMEOUT, Outcome.CONNECT_ERROR)
"""Outcomes that are the server's or the network's failure."""

ASIDE = (Outcome.CANCELLED, Outcome.UNSENT, Outcome.UNKNOWN)
"""Outcomes that are neither an answer nor a failure: what we cancelled, did not send, or do not know."""
