"""`fineserve report`: its flags, and the way from request logs to one HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.htmlreport.differing import Table
from fineserve_shapes.htmlreport.differingtext import table_lines
from fineserve_shapes.htmlreport.page import write_report
from fineserve_shapes.htmlreport.pairing import runs_of


def add_parser(commands: Any, title: str) -> None:
    """Add the subcommand to argparse's collection of them."""
    parser = commands.add_parser(
        "report",
        help=title,
        description="Makes one HTML file of what runs wrote: it opens without a network. Several runs stand side by side.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "records", nargs="+", type=Path, metavar="RECORDS",
        help="request logs (.parquet, .jsonl or .csv: what --request-log wrote), and summaries (.json or .jsonl: what"
        " --output-file wrote), which .parquet files have inside; runs are set against the first",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="the file to write (default: %(default)s)"
    )
    parser.add_argument(
        "--label", action="append", default=[], dest="labels", metavar="NAME",
        help="what a run is called in the report; once for each run, in the order of the files",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Make the report; the exit code."""
    runs = runs_of(args.records, args.labels)
    table = Table.of(runs) if len(runs) > 1 else None
    try:
        write_report(runs, args.out, table)
    except OSError as error:
        raise InputError(f"cannot write {args.out}: {(error.strerror or str(error)).lower()} (--out)") from None
    if table is not None:
        sys.stdout.write("\n".join([*table_lines(table), "", ""]))
    requests = sum(found.ledger["planned"] for found in runs)
    sys.stdout.write(f"{args.out}: {len(runs)} run(s), {requests:,} requests, {args.out.stat().st_size / 1e6:.1f} MB\n")
    return 0
