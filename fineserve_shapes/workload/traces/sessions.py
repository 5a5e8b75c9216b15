"""Sessions: the lines of an agents' trace, each of which holds turns, and these the calls of a model.

The form is that of the coding agents' trace of Azure's public dataset: `turns[].llm_calls[]`. Recorded times are kept:
that a call waits for the one before it, and for the tools between them, is not.
"""

from __future__ import annotations

from typing import Any

from fineserve_shapes.errors import InputError

_OWN = ("session_id", "date")
_HEAVY = "message_metadata"  # a list of the prompt's segments, some dozens a call, of which nothing is used


def holds_sessions(fields: dict[str, Any]) -> bool:
    """Whether a line is a session."""
    return isinstance(fields.get("turns"), list)


def calls_of(session: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """The calls of a session as rows, each with the session's id and date and the turn's id, in the order of the line.

    Raises InputError, with the place, for what is no session.
    """
    own = {name: session.get(name) for name in _OWN}
    rows = []
    for turn in _listed(session, "turns", place):
        of_turn = own | {"turn_id": turn.get("turn_id")}
        for call in _listed(turn, "llm_calls", place):
            rows.append({**of_turn, **{name: value for name, value in call.items() if name != _HEAVY}})
    return rows


def _listed(fields: dict[str, Any], name: str, place: str) -> list[dict[str, Any]]:
    values = fields.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"{place}: {name} is no list of objects, as in a session's line")
    return values
