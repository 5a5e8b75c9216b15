"""Outbox: what a worker measured since it last told the master, packed for a message and read from one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray
from fineserve_shapes.measure import records
from fineserve_shapes.measure.errorkinds import MAX_ERROR_KINDS, OTHER_ERRORS
from fineserve_shapes.measure.histogram import BUCKETS, Histogram, places
from fineserve_shapes.outcome import OK, OUTCOMES

MAX_ERROR_CHARS = 400
EARLIEST_S = -60.0
"""Nothing is measured earlier than that before a run begins."""
_MOMENTS = ("due_s", "sent_s", "first_token_s", "first_visible_s", "last_token_s", "end_s")


SENT = np.dtype([("stream", "<i2"), ("sent_s", "<f8"), ("due_s", "<f8")])
"""Requests that left, and when they should have: told at once, since their record comes only with their end."""

FIRST = np.dtype(
    [("stream", "<i2"), ("due_s", "<f8"), ("sent_s", "<f8"), ("first_token_s", "<f8"), ("asked_input", "<i4")]
)
"""First tokens that have come: told at once, since the record comes only with the end of the answer."""

GAPS = np.dtype([("second", "<i4"), ("stream", "<i2"), ("place", "<u2"), ("count", "<i4")])
"""Gaps between chunks, counted by the second of the run in which they ended, by stream and by histogram bucket; several
rows may tell of the same."""


@dataclass(slots=True)
class Measurements:
    """What a worker measured.

    records: of requests that ended. sent: of requests that left (SENT).
    first: first tokens that came (FIRST). itl: the gaps between the chunks of answers that
    were whole, by stream, without those of the warm-up. gaps: the same gaps by second (GAPS), the warm-up's included.
    errors: (outcome, text) and the positions in `records` that it stands for. token_times_s: times of all chunks, one
    record's after the other's (`chunks` of them each); None where they were not asked for.
    """

    records: records.Records
    sent: npt.NDArray[np.void]
    itl: dict[int, Histogram]
    gaps: npt.NDArray[np.void]
    errors: list[tuple[tuple[str, str], IntArray]]
    token_times_s: FloatArray | None = None
    first: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, dtype=FIRST))

    @classmethod
    def unpack(cls, packed: Any) -> Measurements:
        """What an outbox packed. Raises ValueError, KeyError or TypeError for anything else."""
        rows = records.unpack(packed["records"])
        sent = np.frombuffer(packed["sent"], dtype=SENT)
        gaps = np.frombuffer(packed["gaps"], dtype=GAPS)
        first = np.frombuffer(packed["first"], dtype=FIRST)
        itl = {int(stream): Histogram.unpack(histogram) for stream, histogram in packed["itl"]}
        errors = [
            ((str(outcome), str(text)[:MAX_ERROR_CHARS]), np.frombuffer(at, dtype="<i4").astype(np.int64))
            for outcome, text, at in packed["errors"]
        ]
        times = packed.get("token_times")
        token_times_s = None if times is None else np.frombuffer(times, dtype="<f8")
        if not (
            (rows["outcome"] < len(OUTCOMES)).all()
            and all((values["stream"] >= 0).all() for values in (rows, sent, gaps, first))
            and all(np.isfinite(rows[name]).all() for name in ("due_s", "sent_s", "end_s"))
            and np.isfinite(sent["sent_s"]).all()
            and np.isfinite(sent["due_s"]).all()
            and (np.isfinite(rows["held_s"]) & (rows["held_s"] >= 0)).all()
            and not any((rows[name] < EARLIEST_S).any() or np.isinf(rows[name]).any() for name in _MOMENTS)
            and (sent["sent_s"] >= EARLIEST_S).all()
            and all(np.isfinite(first[name]).all() for name in ("due_s", "sent_s", "first_token_s"))
            and (first["first_token_s"] >= EARLIEST_S).all()
            and not np.isinf(rows["told_sent_s"]).any()
            and not (np.isinf(rows["told_first_token_s"]).any() or (rows["told_first_token_s"] < EARLIEST_S).any())
            and (rows["chunks"] >= 0).all()
            and ((gaps["second"] >= 0) & (gaps["place"] < BUCKETS) & (gaps["count"] > 0)).all()
            and all(stream >= 0 for stream in itl)
            and all(((at >= 0) & (at < len(rows))).all() for _, at in errors)
            and (token_times_s is None or len(token_times_s) == int(rows["chunks"].sum()))
        ):
            raise ValueError("these are no measurements")
        return cls(rows, sent, itl, gaps, errors, token_times_s, first)

    @property
    def latest_s(self) -> float:
        """The latest time in it; minus infinity where there is none."""
        ends = [
            self.records["end_s"],
            self.records["last_token_s"],
            self.sent["sent_s"],
            self.gaps["second"],
            self.first["first_token_s"],
            self.records["told_first_token_s"],
        ]
        return max((float(np.nanmax(values)) for values in ends if len(values) and not np.isnan(values).all()),
                   default=float("-inf"))  # fmt: skip

    def errors_where(self, picked: BoolArray) -> Counter[tuple[str, str]]:
        """How many of the records picked by a mask ended with each (outcome, text)."""
        found: Counter[tuple[str, str]] = Counter()
        for error, at in self.errors:
            if count := int(picked[at].sum()):
                found[error] += count
        return found


@dataclass(slots=True)
class Outbox:
    """Collects measurements on a worker.

    warmup_s: rows due before that time of the run are left out of what is shown. token_times: whether to tell the time
    of every chunk.
    """

    warmup_s: float = 0.0
    token_times: bool = False
    _rows: list[tuple[Any, ...]] = field(default_factory=list)  # these two: of what has not been worked up
    _times: list[FloatArray] = field(default_factory=list)
    _parts: list[_Part] = field(default_factory=list)  # of what has
    _sent: list[tuple[int, float, float]] = field(default_factory=list)
    _first: list[tuple[int, float, float, float, int]] = field(default_factory=list)
    _errors: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many records there are."""
        return sum(len(part.rows) for part in self._parts) + len(self._rows)

    def first(self, stream: int, due_s: float, sent_s: float, first_token_s: float, asked_input: int) -> None:
        """The first token of an answer has come, which goes on."""
        self._first.append((stream, due_s, sent_s, first_token_s, asked_input))

    def sent(self, stream: int, sent_s: float, due_s: float) -> None:
        """A request leaves; it should have at `due_s`, when it was due or was no longer held back."""
        self._sent.append((stream, sent_s, due_s))

    def add(self, record: Mapping[str, Any], chunk_times_s: FloatArray, error: tuple[str, str] | None) -> None:
        """One request has ended: its record by field, when its chunks came, and (outcome, text) if it failed."""
        if error is not None:
            if error not in self._errors and len(self._errors) >= MAX_ERROR_KINDS:
                error = (error[0], OTHER_ERRORS)  # a thousand different messages must not grow memory
            self._errors.setdefault(error, []).append(len(self))
        self._rows.append(records.row_of(record))
        self._times.append(chunk_times_s)

    def work_up(self) -> None:
        """Do most of what `take` does with what there is so far, so that it takes less time then."""
        if not self._rows:
            return
        rows = records.from_rows(self._rows)
        times_s = np.concatenate(self._times)
        itl_s, at, owner = _gaps(rows, times_s)
        shown = (rows["due_s"] >= self.warmup_s)[owner]
        streams = rows["stream"][owner]
        buckets = places(itl_s)
        of_stream = {stream: shown & (streams == stream) for stream in np.unique(streams[shown]).tolist()}
        gaps_s = {stream: itl_s[mine] for stream, mine in of_stream.items()}
        itl = {stream: _histogram(itl_s[mine], buckets[mine]) for stream, mine in of_stream.items()}
        by_second = _by_second(buckets, at, streams)
        self._parts.append(_Part(rows, times_s if self.token_times else np.empty(0), gaps_s, itl, by_second))
        self._rows, self._times = [], []

    def take(self) -> tuple[records.Records, dict[int, FloatArray], dict[str, Any]] | None:
        """All since the last call, None where there is nothing.

        The records and, by stream, the gaps that are to be shown (without the warm-up's), and everything packed for a
        message.
        """
        self.work_up()
        parts = self._parts
        if not (parts or self._sent or self._first):
            return None
        rows = np.concatenate([part.rows for part in parts]) if parts else records.from_rows([])
        itl: dict[int, Histogram] = {}
        gaps_s: dict[int, list[FloatArray]] = {}
        for part in parts:
            for stream, histogram in part.itl.items():
                itl.setdefault(stream, Histogram()).merge(histogram)
                gaps_s.setdefault(stream, []).append(part.gaps_s[stream])
        packed = {
            "records": rows.tobytes(),
            "sent": np.array(self._sent, dtype=SENT).tobytes(),
            "first": np.array(self._first, dtype=FIRST).tobytes(),
            "itl": [[stream, histogram.pack()] for stream, histogram in sorted(itl.items())],
            "gaps": b"".join(part.by_second.tobytes() for part in parts),
            "errors": [[*error, np.array(rows_of, dtype="<i4").tobytes()] for error, rows_of in self._errors.items()],
            **({"token_times": b"".join(part.times_s.tobytes() for part in parts)} if self.token_times else {}),
        }  # fmt: skip
        self._parts, self._sent, self._first, self._errors = [], [], [], {}
        shown = rows[rows["due_s"] >= self.warmup_s]
        return shown, {stream: np.concatenate(several) for stream, several in gaps_s.items()}, packed


@dataclass(frozen=True, slots=True)
class _Part:
    """Records that were worked up, with the times of their chunks where those are told, and the gaps between these: by
    stream, as they are to be shown and counted, and counted as GAPS."""

    rows: records.Records
    times_s: FloatArray
    gaps_s: dict[int, FloatArray]
    itl: dict[int, Histogram]
    by_second: npt.NDArray[np.void]


def _gaps(rows: records.Records, times_s: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """The gaps between chunks of whole answers, when each ended, and the position of its record."""
    owner = np.repeat(np.arange(len(rows)), rows["chunks"])
    inside = (owner[1:] == owner[:-1]) & (rows["outcome"] == OK)[owner[1:]]
    return np.diff(times_s)[inside], times_s[1:][inside], owner[1:][inside]


def _histogram(values_s: FloatArray, buckets: IntArray) -> Histogram:
    histogram = Histogram()
    histogram.record(values_s, buckets)
    return histogram


def _by_second(buckets: IntArray, at_s: FloatArray, streams: IntArray) -> npt.NDArray[np.void]:
    """Gaps counted as GAPS."""
    seconds = np.maximum(np.floor(at_s), 0).astype(np.int64)
    keys, counts = np.unique(seconds << 32 | streams.astype(np.int64) << 16 | buckets, return_counts=True)
    found = np.empty(len(keys), dtype=GAPS)
    found["second"], found["stream"], found["place"] = keys >> 32, keys >> 16 & 0xFFFF, keys & 0xFFFF
    found["count"] = counts
    return found
