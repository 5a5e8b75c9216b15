"""What a tree of processes has used is summed over all of it, and it ends as a whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.processtree import cpu_s, end, peak_mb

BUSY = (
    "import time; block = bytearray(60 << 20)\nwhile time.process_time() < 0.3: pass\nprint('done', flush=1); input()"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}], start_new_session=True)"


@contextmanager
def busy(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has used its CPU time and memory, or whose child has, and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        yield process


EITHER = pytest.mark.parametrize("program", [BUSY, PARENT], ids=["itself", "a child with a session of its own"])


@EITHER
def test_cpu_and_memory_are_those_of_the_tree(program: str) -> None:
    with busy(program) as process:
        assert 0.28 <= cpu_s(process.pid) < 3
        assert 60 <= peak_mb(process.pid) < 200
        process.communicate(b"\n")
    assert (cpu_s(process.pid), peak_mb(process.pid)) == (0, 0)


@EITHER
def test_nothing_of_a_tree_is_left_when_it_was_ended(program: str) -> None:
    with busy(program) as process:
        end(process)
        assert process.returncode == -signal.SIGKILL
        assert process.stdout.read() == b""  # nobody holds it open
