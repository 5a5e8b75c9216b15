"""Pairing: which run each file tells of, request logs with the summaries that are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from fineserve_shapes.errors import InputError
from fineserve_shapes.htmlreport.logfile import LogFile, Summary, check_file
from fineserve_shapes.htmlreport.source import RunData


def runs_of(files: Sequence[Path], labels: Sequence[str] = ()) -> list[RunData]:
    """The runs, in the order in which files tell of them.

    files: request logs (.parquet, .jsonl, .csv) and summaries (.json, or .jsonl with one a line). A summary belongs to the
    log whose request ids begin with its run's name, or, where it has none, to the one log that there is; else it is a run
    by itself, without its requests. labels: a name for each run, in that order; by default they have their own.

    Raises InputError for files that are neither, for one given twice, and for labels that do not go with the runs.
    """
    for place, file in enumerate(files):
        if any(_same(file, other) for other in files[:place]):
            raise InputError(f"{file} is given twice: a run is not set against itself")
    summaries = {file: _summaries(file) for file in files}
    logs = {file: LogFile.read(file) for file, found in summaries.items() if found is None}
    of_logs: dict[Path, Summary] = {}
    alone: dict[Path, list[Summary]] = {file: [] for file in files}
    for file, found in summaries.items():
        for summary in found or ():
            log = _owner(summary, list(logs.values()))
            if log is None:
                alone[file].append(summary)
            else:
                of_logs[log.path] = summary
    runs: list[RunData] = []
    for file in files:
        if file in logs:
            runs.append(RunData.of(logs[file], of_logs.get(file)))
        runs += [RunData.told(summary, file) for summary in alone[file]]
    return _labelled(runs, labels)


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _owner(summary: Summary, logs: Sequence[LogFile]) -> LogFile | None:
    run = summary.get("run")
    if run is None:
        return logs[0] if len(logs) == 1 else None
    return next((log for log in logs if log.first_id.startswith(f"{run}-")), None)


def _labelled(runs: list[RunData], labels: Sequence[str]) -> list[RunData]:
    if not labels:
        return runs
    if len(labels) != len(runs):
        raise InputError(f"{len(labels)} label(s) for {len(runs)} run(s): give one a run, in their order (--label)")
    if not all(label.strip() for label in labels):
        raise InputError("a label has no letters: each run needs a name (--label)")
    if twice := [label for place, label in enumerate(labels) if label in labels[:place]]:
        raise InputError(f"two runs are called {twice[0]!r}: each needs a name of its own (--label)")
    return [replace(run, name=label) for run, label in zip(runs, labels, strict=True)]


def _summaries(file: Path) -> list[Summary] | None:
    """Those in a file; None where it is a request log."""
    form = file.suffix.lower()
    if form not in (".json", ".jsonl"):
        return None
    check_file(file)
    try:
        with file.open("rb") as opened:
            first = opened.readline() if form == ".jsonl" else b""
            if form == ".jsonl" and not _is_summary(first):
                return None
            texts = [first, *opened] if form == ".jsonl" else [opened.read()]
    except OSError as error:
        raise InputError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None
    try:
        found = [orjson.loads(text) for text in texts if text.strip()]
    except orjson.JSONDecodeError as error:
        raise InputError(f"{file} is no summary: {error}") from None
    if not all(isinstance(one, dict) for one in found):
        raise InputError(f"{file} is no summary: it is no JSON object")
    return found


def _is_summary(line: bytes) -> bool:
    """Whether a line is that, and no row of a request log."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and "ledger" in found and "request_id" not in found
