"""What goes to standard output, and what beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from runs import REPLAY, TIMEOUT_S, write_trace


def test_with_json_standard_output_is_json_and_nothing_else(tmp_path: Path):
    """The host is the user class's, and the summary, on standard error then, names it."""
    trace = write_trace(tmp_path / "trace.csv", [0.0, 0.1, 0.2])
    file = tmp_path / "story.py"
    file.write_text(REPLAY.read_text() + '    host = "http://127.0.0.1:9"\n')
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", file, "--headless", "--json", "--request-trace-csv", trace,
         "--skip-preflight", "--model", "m", "--output-file", "out.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # nobody listens there
    (requests,) = [row for row in json.loads(done.stdout) if row["method"] == "POST"]
    assert (requests["num_requests"], requests["num_failures"]) == (3, 3)
    assert "against http://127.0.0.1:9, model m" in done.stderr
    assert "ledger: 3 planned = 0 ok + 3 connect_error" in done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["host"] == "http://127.0.0.1:9"
