"""Log file: a request log as columns, in whichever form it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.requestlog import SCHEMA
from fineserve_shapes.text import shorten

Summary = Mapping[str, Any]

TIMES = "token_times_s"
LONGEST_LINE = 2**26
_YOUNG = ("held_s", "position")  # columns that older logs do not have


@dataclass(frozen=True, slots=True)
class LogFile:
    """path: of the file. table: its columns, as `requestlog.SCHEMA` has them. about: the run's summary, which a .parquet
    file has inside; else empty."""

    path: Path
    table: Any
    about: Summary

    @classmethod
    def read(cls, path: Path) -> LogFile:
        """Raises InputError for what is no request log."""
        check_file(path)
        about: Summary = {}
        try:
            match path.suffix.lower():
                case ".parquet":
                    table = pa.parquet.read_table(path)
                    about = _about((pa.parquet.read_metadata(path).metadata or {}).get(b"fineserve"))
                case ".jsonl":
                    table = pa.json.read_json(
                        path,
                        read_options=pa.json.ReadOptions(block_size=LONGEST_LINE),
                        parse_options=pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="infer"),
                    )
                case ".csv":
                    table = pa.csv.read_csv(
                        path,
                        read_options=pa.csv.ReadOptions(block_size=LONGEST_LINE),
                        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                        convert_options=pa.csv.ConvertOptions(
                            column_types={**dict(zip(SCHEMA.names, SCHEMA.types, strict=True)), TIMES: pa.string()},
                            strings_can_be_null=True, quoted_strings_can_be_null=False,
                        ),
                    )  # fmt: skip
                case _:
                    raise InputError(f"{path} is no request log: those end in .parquet, .jsonl or .csv")
        except OSError as error:
            raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        except pa.ArrowException as error:
            raise InputError(f"{path} is no request log: {shorten(str(error).splitlines()[0], 200)}") from None
        missing = [name for name in SCHEMA.names if name not in table.column_names and name not in _YOUNG]
        if missing:
            raise InputError(f"{path} is no request log: it has no column {missing[0]}")
        return cls(path, table, about)

    @property
    def first_id(self) -> str:
        """The id of its first request; empty where there is none."""
        return str(self.table["request_id"][0].as_py() or "") if self.table.num_rows else ""


def check_file(path: Path) -> None:
    """Raises InputError where there is no file to read, or nothing in it."""
    if not path.exists():
        raise InputError(f"there is no file {path}")
    if path.is_dir():
        raise InputError(f"{path} is a directory: a file is wanted")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: no run has been logged there")


def _about(text: bytes | None) -> Mapping[str, Any]:
    try:
        found = orjson.loads(text or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
