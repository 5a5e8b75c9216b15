"""The `fineserve` command: finds the subcommand, and turns an InputError into one line and exit code 2."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fineserve_shapes import __version__, stories
from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator import command as simulate

TRACE_HELP = "look at traces, fit parameters to them, make and convert them"
REPORT_HELP = "an HTML report of request logs, several runs side by side"


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False  # what is clear today would name another option tomorrow, or none

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            used = self._used(args)
            near = difflib.get_close_matches(unknown[0].partition("=")[0], used.option_strings, 1)
            used.error(f"unknown argument {unknown[0]}" + "".join(f": did you mean {name}?" for name in near))
        return found

    def error(self, message: str) -> NoReturn:
        # one line, as all other bad input; the usage is a --help away
        raise InputError(f"{message} (see {self.prog} --help)")

    @property
    def option_strings(self) -> list[str]:
        """The options that it takes."""
        return [option for action in self._actions for option in action.option_strings]

    def _used(self, words: Sequence[str]) -> _Parser:
        """The parser of the subcommand that these words name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for place, word in enumerate(words):
                    if isinstance(found := action.choices.get(word), _Parser):
                        return found._used(words[place + 1 :])
        return self


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """All subcommands; each sets `run`, which takes the parsed arguments and returns the exit code."""
    result = _Parser(prog="fineserve", description="Realistic LLM traffic: tools around the Locust extension.")
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    stories.add_parsers(commands)
    simulate.add_parser(commands, fits=list(argv[:2]) == ["simulate", "fit"])
    if "trace" in argv[:1]:
        from fineserve_shapes.tracetools import command as trace  # takes two seconds that others need not wait for

        trace.add_parser(commands, TRACE_HELP)
    else:
        commands.add_parser("trace", help=TRACE_HELP)
    if "report" in argv[:1]:
        from fineserve_shapes.htmlreport import command as report  # likewise

        report.add_parser(commands, REPORT_HELP)
    else:
        commands.add_parser("report", help=REPORT_HELP)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = parser(argv).parse_args(argv)
        code: int = args.run(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"fineserve: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
