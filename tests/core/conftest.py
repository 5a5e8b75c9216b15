"""Fixtures of the core's tests, and Hypothesis settings for its laws: the same examples on every machine, no deadline on
noisy cores."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from thorough import examples

settings.register_profile(
    "laws",
    max_examples=examples(100),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("laws")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines into a file and tells its path."""

    def write(*lines: str, name: str = "trace.csv", end: str = "\n") -> Path:
        path = tmp_path / name
        path.write_bytes(end.join([*lines, ""]).encode())
        return path

    return write
