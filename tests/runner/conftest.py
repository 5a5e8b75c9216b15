"""Locust as a library: these tests start none of it."""

import os
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))  # simulated records

with mock.patch.dict(os.environ, LOCUST_SKIP_MONKEY_PATCH="1"):  # or the process would change under all other tests
    import locust  # noqa: F401
