"""A process and all that it started, by /proc: what they have used so far, and their end.

usage: cpu_s(pid), peak_mb(pid), end(process), of a process that leads a session of its own. Processes that have ended count
for CPU as soon as their parent has waited for them, and for memory no longer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_END_S = 10.0


def cpu_s(root: int) -> float:
    """User and system time of the tree, seconds."""
    return sum(sum(map(int, fields[11:15])) for _, fields in _tree(root)) * _TICK_S


def peak_mb(root: int) -> float:
    """The sum of each one's greatest resident memory. What they share counts for each."""
    total_kb = 0
    for pid, _ in _tree(root):
        for line in _text(pid, "status").splitlines():
            if line.startswith("VmHWM:"):
                total_kb += int(line.split()[1])
    return total_kb / 1024


def end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the tree, and wait for the process itself."""
    until_s = time.monotonic() + _END_S
    while (pids := [pid for pid, fields in _tree(process.pid) if fields[0] != "Z"]) and time.monotonic() < until_s:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    process.wait()


def _tree(root: int) -> Iterator[tuple[int, list[str]]]:
    """Each process that descends from the root or is of its session, with the fields of its `stat` behind the name."""
    every = {
        int(name): _text(int(name), "stat").rpartition(") ")[2].split()
        for name in os.listdir("/proc")
        if name.isdigit()
    }
    known: dict[int, bool] = {0: False, root: True}

    def ours(pid: int) -> bool:
        if pid not in known:
            fields = every.get(pid)
            known[pid] = bool(fields) and (int(fields[3]) == root or ours(int(fields[1])))
        return known[pid]

    return ((pid, fields) for pid, fields in every.items() if fields and ours(pid))


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:  # it has ended
        return ""
