"""Stories: the locustfiles that come with the package, as commands: show one, run one, list what it reads."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fineserve_shapes.shipped import STORIES, locustfile

if TYPE_CHECKING:
    from fineserve_shapes.options import Option

LOCUST = "import sys; sys.argv[0] = 'locust'; from locust.main import main; sys.exit(main())"
"""A process of its own: Locust patches the standard library before anything else has been imported."""

INDENT = 34
WIDTH = 120


def add_parsers(commands: Any) -> None:
    """Add the subcommands to argparse's collection of them."""
    shown = "start Locust with a locustfile of the package: locust -f THAT ..., from any folder"
    run = commands.add_parser("run", help=shown, description=shown)
    run.add_argument("story", choices=STORIES, help="which one")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="passed on to Locust, --help too")
    run.set_defaults(run=_run)

    shown = "print a locustfile of the package, to copy and change"
    show = commands.add_parser("locustfile", help=shown, description=shown)
    show.add_argument("story", choices=STORIES, help="which one")
    show.set_defaults(run=_show)

    shown = "list the options of the locustfiles, with their defaults"
    listed = commands.add_parser("options", help=shown, description=shown)
    listed.add_argument("story", choices=STORIES, nargs="?", help="only what this one reads")
    listed.set_defaults(run=_options)


def _run(args: argparse.Namespace) -> int:
    os.execv(sys.executable, [sys.executable, "-c", LOCUST, "-f", str(locustfile(args.story)), *args.arguments])


def _show(args: argparse.Namespace) -> int:
    sys.stdout.write(locustfile(args.story).read_text(encoding="utf-8"))
    return 0


def _options(args: argparse.Namespace) -> int:
    print("\n".join(option_lines(STORIES if args.story is None else (args.story,))))
    return 0


def option_lines(stories: tuple[str, ...]) -> Iterator[str]:
    """The options that these locustfiles read, in groups: each with its help, choices and default."""
    from fineserve_shapes import options

    tables = {
        "replay": options.TRACE, "poisson": options.POISSON, "parametric": options.PARAMETRIC, "mix": options.MIX,
    }  # fmt: skip
    searches = "capacity" in stories
    groups = {f"What is sent, and when: {name}": table for name, table in tables.items() if searches or name in stories}
    if searches:  # in any of them
        groups = {"The search: capacity": options.CAPACITY} | groups
    groups |= {"The server": options.SERVER, "Prompts": options.PROMPTS, "The run": options.RUN}
    for title, table in groups.items():
        yield f"{title}\n"
        for option in table:
            yield from _lines(option)
        yield ""
    yield from textwrap.wrap(
        "Each can also be set in the environment: --time-scale is LOCUST_TIME_SCALE. Locust's own options (--host, "
        "--run-time, --headless, --processes ...) are in: fineserve run replay --help",
        WIDTH,
    )


def _lines(option: Option) -> Iterator[str]:
    value = "" if option.default is None else " " + ("|".join(option.choices or ()) or option.metavar)
    names = f"  {', '.join(option.flags)}{value}"
    described = textwrap.wrap(option.described, WIDTH - INDENT)
    if len(names) < INDENT:
        yield names.ljust(INDENT) + described.pop(0)
    else:
        yield names
    for line in described:
        yield " " * INDENT + line
