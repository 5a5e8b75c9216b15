"""The workflows: they parse, and a release goes out only when it was built and tried."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml
from commands import DOCS, ROOT, flags_of, known_flags

WORKFLOWS: dict[str, Any] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RELEASE = WORKFLOWS["release"]["jobs"]


def tried(job: dict[str, Any]) -> set[str]:
    """The Pythons that must pass."""
    return set(job["strategy"]["matrix"]["python"])


def steps() -> list[str]:
    return [
        step["run"]
        for workflow in WORKFLOWS.values()
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]


def test_each_python_that_the_package_names_is_tested_and_tried() -> None:
    named = {found[1] for text in PROJECT["classifiers"] if (found := re.search(r"Python :: (3\.\d+)", text))}
    assert tried(WORKFLOWS["tests"]["jobs"]["tests"]) == tried(RELEASE["try"]) == named
    assert min(named, key=lambda version: int(version[2:])) == PROJECT["requires-python"].removeprefix(">=")


def test_tests_run_what_ci_runs() -> None:
    assert "bash .ci/run" in steps()
    assert (ROOT / ".ci" / "run").is_file()


def test_a_release_is_published_last_and_without_a_token() -> None:
    assert (RELEASE["try"]["needs"], RELEASE["publish"]["needs"]) == ("build", "try")
    assert RELEASE["publish"]["permissions"] == {"id-token": "write"}
    assert WORKFLOWS["release"]["permissions"] == {"contents": "read"}
    assert all("secrets." not in path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))


def test_commands_name_options_that_there_are() -> None:
    """Those of the workflows, and of the example in the guide."""
    (example,) = re.findall(r"```yaml\n(name: load.*?)```", (DOCS / "ci.md").read_text(), re.DOTALL)
    gate = yaml.safe_load(example)["jobs"]["gate"]["steps"]
    commands = [text.split() for text in [*steps(), *(step["run"] for step in gate if "run" in step)]]
    ours = [words for words in commands if words[0] in ("fineserve", "locust")]
    assert len(ours) == 2
    assert all(flags_of(words) <= known_flags(words) for words in ours)
