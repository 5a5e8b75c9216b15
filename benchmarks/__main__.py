"""Run benchmarks by name, or all of them but those that take hours."""

from __future__ import annotations

import importlib
import sys

NAMES = ("accuracy", "lag", "latejoin", "measuring", "reader", "scaling", "simulator", "traces", "truth")
HOURS = ("capacity",)


def main() -> None:
    """Run what was asked for."""
    names = sys.argv[1:] or NAMES
    if unknown := [name for name in names if name not in (*NAMES, *HOURS)]:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join((*NAMES, *HOURS))}")
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"== {name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        module.main()
        print(flush=True)


main()
