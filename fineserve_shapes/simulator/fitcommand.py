"""`fineserve simulate fit`: its flags, and what it prints."""

import argparse
import math
from typing import Any

from fineserve_shapes.simulator.engineflags import add_engine_flags, add_length_flag, count, flags_of, parameters_of


def add_parser(commands: Any) -> None:
    """Add the subcommand to argparse's collection of them."""
    parser = commands.add_parser(
        "fit",
        help="the engine's flags that make it behave like a server that was measured",
        description="Fit the engine to request logs of runs at several rates, or to a curve: a CSV with the columns "
        "rate_rps, input_tokens, output_tokens, ttft_ms and tpot_ms. The engine's flags say what is known "
        "(--max-num-seqs, --kv-cache-tokens, ...).",
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", nargs="+", help="request logs or curves to fit to: .parquet, .jsonl, .csv")
    parser.add_argument("--check", nargs="+", default=[], metavar="FILE", help="others, to compare with and not to fit")
    parser.add_argument(
        "--rounds", type=count, default=30, metavar="N", help="steps of the search at most (%(default)s)"
    )
    add_length_flag(parser)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print the flags, and how well they fit."""
    from fineserve_shapes.simulator.fitting import errors, fit, read_observations  # takes a second

    fitted_to = [seen for path in args.file for seen in read_observations(path)]
    checked = [seen for path in args.check for seen in read_observations(path)]
    found = fit(fitted_to, parameters_of(args), args.rounds)
    print(f"fineserve simulate {flags_of(found.parameters)}")
    print(f"left over: {100 * found.error:.1f} % (root of the mean squared relative error, weighted)")
    for title, observations in (("fitted to", fitted_to), ("checked with", checked)):
        for each in observations:
            print(f"{title} {each.name}:")
            for name, error in errors(found.parameters, each).items():
                print(f"  {name:24}{1e3 * each.seen[name]:10.2f} ms seen, simulated {100 * math.expm1(error):+.1f} %")
    return 0
