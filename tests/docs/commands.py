"""The commands that stand in pages, and the options that they may name."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fineserve_shapes import cli
from fineserve_shapes.commandline import HOMES
from fineserve_shapes.options import RUN, Option
from fineserve_shapes.shipped import STORIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z-]*")
_LIST_LOCUST = """
import json
from locust.argument_parser import get_empty_argument_parser, setup_parser_arguments
parser = get_empty_argument_parser()
setup_parser_arguments(parser)
actions = parser._actions
flags = [flag for action in actions for flag in action.option_strings]
print(json.dumps({"flags": [*flags, "-f", "--locustfile", "--help"],
                  "variables": [name for action in actions if (name := getattr(action, "env_var", None))]}))
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Commands that a page shows together. run: whether the tests run them; the others are only shown."""

    page: Path
    text: str
    run: bool

    @property
    def commands(self) -> Iterator[list[str]]:
        """Each command of ours as its words, without what a shell takes for itself."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word in ("&&", "|", ">"):
                    if words[:1] in (["fineserve"], ["locust"]):
                        yield words
                    words = []
                else:
                    words.append(word)


def blocks(page: Path) -> Iterator[Block]:
    """What stands in a fence of `bash` is run; in one of `console` it is shown behind a `$`."""
    for language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            yield Block(page, text, run=True)
        elif language == "console":
            # a line goes on in the next one behind a backslash
            whole = text.replace("\\\n", " ")
            shown = "\n".join(line[2:] for line in whole.splitlines() if line.startswith("$ "))
            yield Block(page, shown, run=False)


@cache
def locust() -> dict[str, list[str]]:
    """Locust's own `flags`, and the `variables` that stand for them. Elsewhere, since Locust patches what it is imported
    into."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    done = subprocess.run([sys.executable, "-c", _LIST_LOCUST], env=clean, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def story_options(story: str | None) -> list[Option]:
    """The options of a locustfile of ours, its users' too; of all of them where the name is none, and for a search, which
    runs any of the others."""
    every = story in (None, "capacity")
    homes = [read for home, read in HOMES if every or home == f"{story}.py" or not home.endswith(".py")]
    return [option for read in (*homes, RUN) for option in read]


def variables(story: str | None) -> set[str]:
    """The environment variables that a run with this locustfile reads."""
    return {f"LOCUST_{option.dest.upper()}" for option in story_options(story)} | set(locust()["variables"])


def flags_of(command: Sequence[str]) -> set[str]:
    """The options that a command names."""
    return {found[0] for word in command[1:] if (found := _FLAG.match(word))}


def known_flags(command: Sequence[str]) -> set[str]:
    """The options that it could name."""
    if command[:2] == ["fineserve", "run"]:
        story: str | None = command[2]
    elif command[0] == "locust":
        story = next((name for name in STORIES if any(word.endswith(f"/{name}.py") for word in command)), None)
    else:
        parser: Any = cli.parser(command[1:])
        return set(parser._used(command[1:]).option_strings)
    return {flag for option in story_options(story) for flag in option.flags} | set(locust()["flags"])
