"""Reading: a trace file with what is known of it before its rows are read: its columns, its form, its unit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traces.cleaning import Cleaner
from fineserve_shapes.workload.traces.csvfile import CsvFile
from fineserve_shapes.workload.traces.forms import (
    PREFIX_COLUMN,
    Form,
    TraceColumns,
    find_columns,
    find_prefixes,
    form_of,
)
from fineserve_shapes.workload.traces.jsonlfile import JsonlFile
from fineserve_shapes.workload.traces.parquetfile import ParquetFile
from fineserve_shapes.workload.traces.timestamps import DATE_TIME, TimestampUnit
from fineserve_shapes.workload.traces.tracefile import TraceFile, Wanted
from fineserve_shapes.workload.traces.traceoptions import TraceOptions
from fineserve_shapes.workload.traces.units import find_unit

# Measured: with fewer rows the parser's cost per chunk shows (a quarter more at 64 Ki), with more the first ones come late.
CHUNK_ROWS = 262_144

FORMATS: dict[str, type[CsvFile] | type[JsonlFile] | type[ParquetFile]] = {
    ".csv": CsvFile,
    ".csv.gz": CsvFile,
    ".csv.zst": CsvFile,
    ".jsonl": JsonlFile,
    ".jsonl.gz": JsonlFile,
    ".jsonl.zst": JsonlFile,
    ".parquet": ParquetFile,
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows of a file are read with these options. block_tokens: of its shared blocks, None where it has none."""

    file: TraceFile
    options: TraceOptions
    columns: TraceColumns
    form: Form | None
    unit: TimestampUnit
    block_tokens: int | None

    @property
    def cleaner(self) -> Cleaner:
        """What decides which rows are kept."""
        whole_in = self.unit.name if self.unit.whole else None
        return Cleaner(self.file, self.columns, self.options, self.form, self.block_tokens, whole_in)

    def wanted(self, *, numbers: Iterable[str] = (), texts: Iterable[str] = ()) -> Wanted:
        """The columns that the cleaner needs, and further ones."""
        conditions = self.options.conditions
        images = () if self.form is None or self.form.images is None else (self.form.images,)
        labels = dict.fromkeys((*(condition.column for condition in conditions), *images, *texts))
        return Wanted(
            (*self.columns, *numbers),
            tuple(labels),
            self.unit.name == DATE_TIME,
            None if self.block_tokens is None else PREFIX_COLUMN,
            conditions,
            every_tick=self.options.time_origin == "trace",
        )


def begin(path: str | os.PathLike[str], options: TraceOptions) -> Reading:
    """Find out what a file is. Raises InputError where it is missing, damaged or in no form that we know."""
    file = open_file(path)
    columns = find_columns(file, options)
    unit = find_unit(file, columns, options.timestamp_unit)
    return Reading(file, options, columns, form_of(file, columns), unit, find_prefixes(file, columns, options))


def open_file(path: str | os.PathLike[str]) -> TraceFile:
    """The reader for a file, by its name."""
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    reader = FORMATS.get("".join(suffixes[-2:])) or FORMATS.get("".join(suffixes[-1:]))
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if not path.is_file():
        raise InputError(f"{path}: this is no file but a directory or a device")
    if reader is None:
        raise InputError(f"{path}: a trace is a file whose name ends in {', '.join(FORMATS)}")
    return reader(path)
