"""Run benchmarks by name, or all of them but those that take hours or install what is not ours."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "accuracy", "clients", "lag", "latejoin", "measuring", "reader", "scaling", "simulator", "streammemory", "traces",
    "truth",
)  # fmt: skip
BY_NAME = ("calibration", "capacity", "peers")


def main() -> None:
    """Run what was asked for."""
    names = [word for word in sys.argv[1:] if not word.startswith("-")] or NAMES
    if unknown := [name for name in names if name not in (*NAMES, *BY_NAME)]:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join((*NAMES, *BY_NAME))}")
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"== {name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        module.main()
        print(flush=True)


main()
