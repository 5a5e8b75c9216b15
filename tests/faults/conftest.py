"""Real processes that are killed, stopped and interrupted; what starts them is shared with the tests of Locust."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "locust"))
