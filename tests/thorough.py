"""How many examples a law is tested with: a quarter by default, all of them with THOROUGH=1 (`make thorough`)."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("THOROUGH"))


def examples(all_of_them: int) -> int:
    """So many, or a quarter of that."""
    return all_of_them if THOROUGH else all_of_them // 4
