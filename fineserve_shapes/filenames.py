"""File names: where the runs of one process write, so that none overwrites what an earlier one wrote."""

from __future__ import annotations

import os
from pathlib import Path

from fineserve_shapes.errors import InputError

RUN = "{run}"
"""Stands for the run's name in the name of a file."""


class FileNames:
    """The names that runs of this process have written to.

    A name with `{run}` in it is another one for each run. One without it is kept for the first run that writes there, and
    has the run's name before its suffix for those that follow: `summary.json`, then `summary-1a2b3c4d.json`.
    """

    def __init__(self) -> None:
        self._written: set[Path] = set()

    def free(self, path: Path) -> Path:
        """The name for the next run, as a pattern: see `named`."""
        if path not in self._written:
            return path
        return path.with_name(f"{path.stem}-{RUN}{path.suffix}")

    def write(self, pattern: Path | None) -> None:
        """A run writes there."""
        if pattern is not None and RUN not in pattern.name:
            self._written.add(pattern)


def named(pattern: Path, run: str) -> Path:
    """The name for this run."""
    return pattern.with_name(pattern.name.replace(RUN, run))


def check_writable(path: Path, flag: str) -> None:
    """Raises InputError, before anything starts, where a file cannot be written in the end."""
    if path.is_dir():
        raise InputError(f"{path} is a directory: name a file in it ({flag})")
    if not path.parent.is_dir():
        raise InputError(f"there is no directory {path.parent} for {path.name} ({flag})")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"cannot write to {path}: permission denied ({flag})")
