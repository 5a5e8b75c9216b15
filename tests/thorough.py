"""What is tested only with THOROUGH=1 (`make thorough`): all examples of a law, and the long way where a short one has
shown nearly all."""

from __future__ import annotations

import os

import pytest

THOROUGH = bool(os.environ.get("THOROUGH"))


def examples(all_of_them: int) -> int:
    """So many, or a quarter of that."""
    return all_of_them if THOROUGH else all_of_them // 4


in_one_process_too = pytest.mark.parametrize("workers", [0, 2] if THOROUGH else [2])
"""For tests of half a minute whose way in one process others go as well."""
