"""What the tests of the client have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab
