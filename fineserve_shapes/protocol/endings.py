"""Endings: what a server means by the finish_reason of a choice.

Servers write more than reasons into that field: placeholders while an answer goes on, and words for an answer that
failed. A word that stands in neither table is a reason like `stop` or `length`.
"""

from __future__ import annotations

PLACEHOLDERS = frozenset({"", "null", "none", "undefined"})
"""Words that stand where there is no reason yet."""

FAILURES = frozenset(
    {
        *("abort", "aborted", "cancel", "cancelled", "canceled", "interrupted", "terminated", "preempted"),
        *("error", "errored", "fail", "failed", "failure", "exception", "internal_error", "server_error"),
        *("internal_server_error", "engine_error", "engine_dead", "model_error", "inference_error", "backend_error"),
        *("timeout", "timed_out", "request_timeout", "deadline_exceeded"),
        *("network_error", "connection_error", "connection_closed", "disconnect", "disconnected", "broken_pipe"),
        *("overloaded", "server_overloaded", "unavailable", "service_unavailable", "rejected", "evicted", "oom"),
        *("out_of_memory", "insufficient_system_resource", "insufficient_resources", "rate_limit", "rate_limited"),
    }
)
"""Words for an answer that its server gave up."""


def ending(value: object) -> str | None:
    """The finish_reason in a field of that name; None where it is none yet.

    SGLang's own form, an object with the word under `type`, is understood as well.
    """
    if isinstance(value, dict):
        value = value.get("type")
    if value is None or value is False:
        return None
    word = str(value)
    return None if word.strip().lower() in PLACEHOLDERS else word


def is_failure(reason: str) -> bool:
    """Whether the word says that the server gave the answer up."""
    return reason.strip().lower().replace("-", "_").replace(" ", "_") in FAILURES
