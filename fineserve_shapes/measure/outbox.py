"""Outbox: what a worker measured since it last told the master, packed for a message and read from one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.measure import records
from fineserve_shapes.measure.histogram import Histogram

MAX_ERROR_KINDS = 200
OTHER_ERRORS = "other errors"

FloatArray = npt.NDArray[np.float64]


@dataclass(slots=True)
class Measurements:
    """Records of requests that ended, the gaps between their chunks, and their errors as (outcome, text) -> count."""

    records: records.Records
    itl: Histogram
    errors: Counter[tuple[str, str]]

    @classmethod
    def unpack(cls, packed: Any) -> Measurements:
        """What an outbox packed. Raises ValueError, KeyError or TypeError for anything else."""
        return cls(
            records.unpack(packed["records"]),
            Histogram.unpack(packed["itl"]),
            Counter({(str(outcome), str(text)): int(count) for outcome, text, count in packed["errors"]}),
        )


@dataclass(slots=True)
class Outbox:
    """Collects measurements on a worker."""

    _rows: list[tuple[Any, ...]] = field(default_factory=list)
    _gaps: list[FloatArray] = field(default_factory=list)
    _errors: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, row: tuple[Any, ...], itl_s: FloatArray, error: tuple[str, str] | None) -> None:
        """One request has ended: its record, the gaps between its chunks, and (outcome, text) if it failed."""
        self._rows.append(row)
        if len(itl_s):
            self._gaps.append(itl_s)
        if error is not None:
            if error not in self._errors and len(self._errors) >= MAX_ERROR_KINDS:
                error = (error[0], OTHER_ERRORS)  # a thousand different messages must not grow memory
            self._errors[error] += 1

    def take(self) -> tuple[records.Records, FloatArray, dict[str, Any]] | None:
        """All since the last call, None where there is nothing: the records, the gaps, and both packed for a message."""
        if not self._rows:
            return None
        rows = records.from_rows(self._rows)
        gaps = np.concatenate(self._gaps) if self._gaps else np.empty(0)
        itl = Histogram()
        itl.record(gaps)
        packed = {
            "records": rows.tobytes(),
            "itl": itl.pack(),
            "errors": [[outcome, text, count] for (outcome, text), count in self._errors.items()],
        }
        self._rows, self._gaps, self._errors = [], [], Counter()
        return rows, gaps, packed
