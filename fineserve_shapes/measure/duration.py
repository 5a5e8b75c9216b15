"""Duration: a length of time as people write it."""

from __future__ import annotations

import math
import re

from fineserve_shapes.errors import InputError

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM = re.compile(r"\s*([0-9.eE+-]+)\s*(us|ms|s|m|h)\s*")


def duration_s(text: str, what: str) -> float:
    """Seconds. Raises InputError for what has no unit, or is not above 0; `what` names the option."""
    found = _FORM.fullmatch(text)
    try:
        value_s = float(found[1]) * _UNITS_S[found[2]] if found else math.nan
    except ValueError:
        value_s = math.nan
    if not (math.isfinite(value_s) and value_s > 0):
        raise InputError(f"{what} must be a duration above 0 with its unit, such as 500ms or 1.5s, got {text!r}")
    return value_s
