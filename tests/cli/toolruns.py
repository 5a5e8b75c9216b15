"""Runs of `fineserve trace`, and the files that they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fineserve_shapes import cli

DATASETS = Path(__file__).parents[2] / "datasets"
DATA = Path(__file__).parents[3] / "shared" / "data"
MOE = DATASETS / "replay" / "MoE_gt100B.csv"
FORMATS = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def run(*arguments: object) -> int:
    return cli.main(["trace", *map(str, arguments)])


def inspected(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run("inspect", "--json", *arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def write(path: Path, rows: list[tuple[object, ...]], header: str = "timestamp,input_length,output_length") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path
