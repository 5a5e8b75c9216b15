"""What the pages say to type: it names options that there are, and it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PAGES, ROOT, Block, blocks, flags_of, known_flags

from fineserve_shapes.shipped import DATASETS
from fineserve_shapes.simulator.process import SimulatorProcess

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = {page.name: [block for block in BLOCKS if block.page == page and block.run] for page in PAGES}
EXIT_INVALID = 3
SHIM = """#!/usr/bin/env bash
# the command, and behind it what keeps a run short and on this machine
extra=()
[[ "$1" == {when} ]] && extra=(--headless --only-summary -t 1s --drain-timeout 5 --host {url})
exec {python} -m {module} "$@" "${{extra[@]}}"
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_types_is_one_that_there_is(page: Path) -> None:
    unknown = {
        (" ".join(command), flag)
        for block in BLOCKS
        if block.page == page
        for command in block.commands
        for flag in flags_of(command) - known_flags(command)
    }
    assert unknown == set()


def test_the_first_steps_and_every_workload_are_run() -> None:
    pages = {name for name, found in RUN.items() if found}
    assert pages >= {"getting-started.md", "replay.md", "poisson.md", "parametric.md", "ci.md"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A quick simulator for all of them."""
    with SimulatorProcess(ttft_ms=5, itl_ms=1) as running:
        yield running.url


@pytest.mark.parametrize("name", [name for name, found in RUN.items() if found])
def test_the_commands_of_a_page_run_one_after_the_other(name: str, server: str, tmp_path: Path) -> None:
    """In an empty folder that has a trace, against the simulator, for a second each."""
    programs, folder = tmp_path / "bin", tmp_path / "here"
    programs.mkdir()
    folder.mkdir()
    for program, module, when in (("fineserve", "fineserve_shapes.cli", "run"), ("locust", "locust", "-f")):
        path = programs / program
        path.write_text(SHIM.format(when=when, url=server, python=sys.executable, module=module))
        path.chmod(0o755)
    shutil.copy(DATASETS / "replay" / "Dense_10to30B.csv", folder / "my_trace.csv")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LOCUST_", "OPENAI_"))}
    environment = clean | {
        "PATH": f"{programs}:{clean['PATH']}", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"
    }  # fmt: skip
    for block in RUN[name]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=folder,
            env=environment,
            timeout=100,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode in allowed(block), f"{block.text}\n{done.stdout}"


def allowed(block: Block) -> set[int]:
    """A machine that is busy may well make a run invalid."""
    return {0, EXIT_INVALID} if "--fail-if-invalid" in block.text else {0}
