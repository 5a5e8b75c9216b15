"""The environments of other load generators, one for each package, under build/peers.

usage: python -m benchmarks.environments [PART OF A NAME ...]      installs those that are not there yet

vLLM is gigabytes and is not installed: VLLM_BIN names the `vllm` of an environment that has it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.loadgenerators import TOOLS, Tool
from benchmarks.pacedserver import BUILD

HOME = BUILD / "peers"


class Missing(Exception):
    """A tool that cannot be had; the text is why."""


def programs(tool: Tool) -> Path:
    """The folder of its environment's programs. Raises Missing, at once, where it is not installed."""
    if not tool.packages:
        binary = os.environ.get("VLLM_BIN")
        if binary is None:
            raise Missing("not installed: VLLM_BIN names the `vllm` of an environment that has it")
        return Path(binary).absolute().parent
    if not _ready(tool).exists():
        raise Missing(f"not installed: python -m benchmarks.environments {tool.name.split()[0]}")
    return _home(tool) / "bin"


def version(tool: Tool) -> str:
    """The tool's own, or what its environment says."""
    if tool.version:
        return tool.version
    command = [programs(tool) / "python", "-c", "import vllm; print(vllm.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.split() or ["?"])[-1]


def install(tool: Tool) -> None:
    """Install it where it is not there yet. Raises Missing where that cannot be done."""
    if not tool.packages or _ready(tool).exists():
        return
    home = _home(tool)
    _do(sys.executable, "-m", "venv", "--clear", str(home))
    pip = (str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if tool.without_dependencies:
        _do(*pip, "--no-deps", f"{tool.without_dependencies}=={tool.version}")
    _do(*pip, *tool.packages)
    _ready(tool).touch()


def asked_for(names: str) -> list[Tool]:
    """Tools by parts of their names, with commas between them; all for an empty text."""
    return [tool for tool in TOOLS if any(name in tool.name.lower() for name in names.lower().split(","))]


def _home(tool: Tool) -> Path:
    return HOME / (tool.without_dependencies or re.split(r"[\[=]", tool.packages[0])[0])


def _ready(tool: Tool) -> Path:
    return _home(tool) / f"ready-{tool.version}"


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or ["?"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise Missing(f"not installed: {(errors or lines)[-1]}")


def main() -> None:
    """Install what was asked for, and say of each where it is or why it is not."""
    for tool in asked_for(",".join(sys.argv[1:])):
        try:
            install(tool)
            print(f"{tool.name}: {programs(tool)}", flush=True)
        except Missing as missing:
            print(f"{tool.name}: {missing}", flush=True)


if __name__ == "__main__":
    main()
