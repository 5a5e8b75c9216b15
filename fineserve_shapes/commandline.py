"""Command line: our options in Locust's parser, and in those of our own commands."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from fineserve_shapes.options import CAPACITY, MIX, PARAMETRIC, POISSON, PROMPTS, SERVER, TRACE, Option

LOOPBACK = "127.0.0.1"


class _Joined(argparse.Action):
    """Puts what is given again behind what there is: the web form has one text for an option."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:  # noqa: ARG002
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def add(parser: Any, options: Iterable[Option], *, environment: bool = True) -> None:
    """Add options to a parser (not in groups: those vanish from Locust's web form), each once.

    environment: whether they can be given as LOCUST_... variables, which is for Locust's parser alone.
    """
    known = {string for action in parser._actions for string in action.option_strings}
    for option in options:
        if option.flag in known:
            continue
        known.update(option.flags)
        variable = {"env_var": "LOCUST_" + option.dest.upper()} if environment else {}
        if option.default is None:
            parser.add_argument(*option.flags, action="store_true", default=False, help=option.help, **variable)
        else:
            parser.add_argument(
                *option.flags, default=option.default, choices=option.choices, help=option.described,
                metavar=None if option.choices else option.metavar,
                action=_Joined if option.joined else "store", **variable,
            )  # fmt: skip


HOMES = (
    ("replay.py", TRACE),
    ("poisson.py", POISSON),
    ("parametric.py", PARAMETRIC),
    ("mix.py", MIX),
    ("capacity.py", CAPACITY),
    ("CompletionUser and ChatUser", (*SERVER, *PROMPTS)),
)
"""Which locustfile, or class, reads which options."""


def explain_unknown(parser: Any) -> None:
    """Have Locust's parser say of an option that it does not know where it belongs, or which one is meant, in one line.

    It takes no abbreviations: one that is clear today would name another option tomorrow, or none.
    """
    parser.allow_abbrev = False
    complain = parser.error

    def error(message: str) -> None:
        unknown = [word.partition("=")[0] for word in message.partition("unrecognized arguments: ")[2].split()]
        for flag in unknown:
            if homes := [home for home, options in HOMES if any(flag in option.flags for option in options)]:
                complain(f"{flag} belongs to {_listed(homes)}: this locustfile does not read it")
        if unknown:
            known = [string for action in parser._actions for string in action.option_strings]
            near = difflib.get_close_matches(unknown[0], known, 1)
            complain(f"unknown argument {unknown[0]}" + "".join(f": did you mean {name}?" for name in near))
        complain(message)

    parser.error = error


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def listen_to_this_machine(parser: Any) -> None:
    """Have the master's port take workers of this machine alone, unless --master-bind-host says otherwise.

    Locust would listen on all interfaces, and the port is neither encrypted nor authenticated.
    """
    for action in parser._actions:
        if "--master-bind-host" in action.option_strings:
            action.default = LOOPBACK
            action.help = (
                "IP address for the master to listen on, or * for all. By default only workers on this machine are"
                f" taken ({LOOPBACK}): the port is neither encrypted nor authenticated."
            )
