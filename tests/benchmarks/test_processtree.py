"""What a tree of processes has used is summed over all of it, and it ends as a whole."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from benchmarks.processtree import cpu_s, end, peak_mb

BUSY = (
    "import time; block = bytearray(60 << 20)\nwhile time.process_time() < 0.3: pass\nprint('done', flush=1); input()"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}], start_new_session=True)"


@pytest.mark.parametrize("program", [BUSY, PARENT], ids=["itself", "a child with a session of its own"])
def test_cpu_and_memory_are_those_of_the_tree(program: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert 0.28 <= cpu_s(process.pid) < 3
        assert 60 <= peak_mb(process.pid) < 200
        process.communicate(b"\n")
    assert (cpu_s(process.pid), peak_mb(process.pid)) == (0, 0)


@pytest.mark.parametrize("program", [BUSY, PARENT], ids=["itself", "a child with a session of its own"])
def test_nothing_of_a_tree_is_left_when_it_was_ended(program: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        end(process)
        assert process.returncode == -signal.SIGKILL
        assert process.stdout.read() == b""  # nobody holds it open
