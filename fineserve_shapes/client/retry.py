"""Retry: a request that was answered with 429 goes out again, where the user asks for that.

What may live here: how often and after how long. By default 429 is an outcome like any other, for it is what the server
does under this load; sending again is a load of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import gevent

from fineserve_shapes.errors import InputError
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.protocol.result import Result

FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
MAX_RETRIES = 100


@dataclass(frozen=True, slots=True)
class Retry429:
    """So many more attempts after an answer of 429, each after the server's Retry-After (at most MAX_WAIT_S).

    Without that header the wait is 1 s, 2 s, 4 s and so on. within_s: no new attempt begins later than so many seconds
    after the first.
    """

    retries: int = 0
    within_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= MAX_RETRIES:
            raise InputError(f"--rate-limit-retries must lie in 0..{MAX_RETRIES}, got {self.retries}")

    def perform(self, attempt: Callable[[], Result]) -> Result:
        """The result of the last attempt, as of one request that was sent with the first."""
        first = result = attempt()
        for number in range(self.retries):
            if result.status != 429 or result.outcome != Outcome.HTTP_ERROR:
                break
            wait_s = FIRST_WAIT_S * 2.0**number if result.retry_after_s is None else result.retry_after_s
            wait_s = min(wait_s, MAX_WAIT_S)
            if result.end_s + wait_s - first.sent_s > self.within_s:
                break
            try:
                gevent.sleep(wait_s)
            except gevent.GreenletExit:
                text = "the run was stopped while the request waited to be retried"
                return replace(result, outcome=Outcome.CANCELLED, error=text, sent_s=first.sent_s)
            result = replace(attempt(), sent_s=first.sent_s, retried=True)
        return result


def retry_after_s(value: bytes) -> float | None:
    """Seconds from a Retry-After header, a number or a date; None for anything else. Source: RFC 9110, 10.2.3."""
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)
