"""Other load generators against the paced server, each in an environment of its own under build/peers.

They are installed when first asked for; one that cannot be is a line that says so. Environment: PEERS, parts of names with
commas between them (all); MODEL, the folder of a tokenizer, which most of them need; VLLM_BIN, the `vllm` of an environment
that there is, since vLLM is gigabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.environments import Missing, asked_for, install, programs, version
from benchmarks.loadgenerators import Target, Tool
from benchmarks.sidebyside import MODEL, Client, Load, loads, no_rows, table


def cases() -> Iterator[tuple[Client, Load]]:
    """Each tool that is asked for, at each load."""
    for tool in asked_for(os.environ.get("PEERS", "")):
        try:
            install(tool)
            command = _command(tool, programs(tool))
        except Missing as missing:
            no_rows(tool.name, str(missing))
            continue
        for load in loads():
            yield Client(tool.name, version(tool), command, tool.read, environment=tool.variables), load


def _command(tool: Tool, folder: Path) -> Callable[[str, Load, Path], list[object]]:
    return lambda url, load, _: tool.command(folder, Target(url, MODEL), load)


def main() -> None:
    """Print the table."""
    table("peers", cases())
