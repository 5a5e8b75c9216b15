"""The examples run as docs/extending.md says: its commands are the ones that are run here."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from runs import ROOT, outcomes, run_locust, summary_of

COMMANDS = [
    shlex.split(line)
    for line in (ROOT / "docs" / "extending.md").read_text().splitlines()
    if line.startswith("locust ")
]
EXPECTED = {
    "own_request.py": {"mode": "replay", "requests": 5, "rows": ["creative chat", "chat"]},
    "own_client.py": {"mode": "poisson", "requests": 5, "rows": ["/v1/completions"]},
    "own_shape.py": {"mode": "volleys", "requests": 15, "rows": ["/v1/completions"]},
}


def test_every_example_stands_in_the_guide_with_the_command_of_its_docstring() -> None:
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert sorted(Path(command[2]).name for command in COMMANDS) == [path.name for path in examples] == sorted(EXPECTED)
    for path in examples:
        assert 10 <= len(path.read_text().splitlines()) <= 40
    for command in COMMANDS:
        assert f"\n{shlex.join(command)}\n" in (ROOT / command[2]).read_text()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(command[2]).name)
def test_the_commands_of_the_guide_send_what_they_plan(tmp_path: Path, command: list[str]) -> None:
    """All is answered, under the names and in the mode of the example."""
    path, arguments = ROOT / command[2], command[3:]
    done = run_locust(tmp_path, *arguments, "--output-file", tmp_path / "summary.json", file=path)
    assert done.code == 0, done.output
    summary, expected = summary_of(tmp_path / "summary.json"), EXPECTED[path.name]
    assert (summary["mode"], outcomes(summary)) == (expected["mode"], {"ok": expected["requests"]}), done.output
    for row in expected["rows"]:
        assert f" {row} " in done.output
