"""`fineserve report`: its flags, and the way from request logs to one HTML file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from fineserve_shapes.errors import InputError
from fineserve_shapes.htmlreport.page import write_report
from fineserve_shapes.htmlreport.source import RunData, check_file


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
        help="request logs (.parquet, .jsonl or .csv: what --request-log wrote), and summaries (.json: what"
        " --output-file wrote), which .parquet files have inside",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="the file to write (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Make the report; the exit code."""
    summaries = [_summary(path) for path in args.records if path.suffix.lower() == ".json"]
    logs = [path for path in args.records if path.suffix.lower() != ".json"]
    if not logs:
        raise InputError("a report needs a request log (.parquet, .jsonl or .csv: what --request-log wrote)")
    by_run = {str(summary.get("run")): summary for summary in summaries}
    runs = []
    for path in logs:
        found = RunData.read(path)
        name = found.ids[0].rpartition("-")[0] if found.ids else ""
        summary = by_run.get(name) or (summaries[0] if len(summaries) == len(logs) == 1 else None)
        runs.append(found if summary is None else RunData.read(path, summary))
    try:
        write_report(runs, args.out)
    except OSError as error:
        raise InputError(f"cannot write {args.out}: {(error.strerror or str(error)).lower()} (--out)") from None
    requests = sum(found.ledger["planned"] for found in runs)
    sys.stdout.write(f"{args.out}: {len(runs)} run(s), {requests:,} requests, {args.out.stat().st_size / 1e6:.1f} MB\n")
    return 0


def _summary(path: Path) -> Mapping[str, Any]:
    check_file(path)
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path} is no summary: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is no summary: it is no JSON object")
    return found
