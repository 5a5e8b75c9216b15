"""Series: a run second by second, in memory that hardly grows with the run.

What may live here: columns over the time of the run, and how they coarsen, merge and become JSON.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure import records
from fineserve_shapes.measure.histogram import BUCKETS, places
from fineserve_shapes.measure.measurements import FIRST, Measurements
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.serieschanges import Changes
from fineserve_shapes.measure.seriescolumns import SeriesColumns
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.outcome import OK, OUTCOMES

COUNTS = ("planned", "sent", *OUTCOMES, "good", "input_tokens", "output_tokens", "tokens_come", "in_flight")
QUANTITIES = ("ttft", "ttft_from_due", "tpot", "itl", "e2e_latency", "lag")
QUANTILES = (0.5, 0.9, 0.99)

LEVELS = ((1, 1_200), (10, 4_500), (60, 21_600), (600, 129_600), (3_600, None))
"""Width of a slot in seconds, and how many seconds back from the newest there are slots of that width."""

_FIELD_BITS, _PLACE_BITS = 5, 11
_FIELDS = {name: place for place, name in enumerate((*COUNTS, *QUANTITIES))}
assert BUCKETS <= 1 << _PLACE_BITS
assert len(_FIELDS) <= 1 << _FIELD_BITS


@dataclass(slots=True)
class _Slot:
    """Sums by key: (stream, field, bucket) in the bits of a number, ascending once it is packed."""

    keys: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    sums: FloatArray = field(default_factory=lambda: np.empty(0))
    more: list[tuple[npt.NDArray[np.int32], FloatArray]] = field(default_factory=list)
    waiting: int = 0

    def add(self, keys: npt.NDArray[np.int32], sums: FloatArray) -> None:
        self.more.append((keys, sums))
        self.waiting += len(keys)
        if self.waiting > 256 + 2 * len(self.keys):  # seldom enough to be cheap, often enough to stay small
            self.pack()

    def pack(self) -> None:
        if self.more:
            keys = np.concatenate([self.keys, *(keys for keys, _ in self.more)])
            sums = np.concatenate([self.sums, *(sums for _, sums in self.more)])
            self.keys, self.sums = _summed(keys, sums)
            self.more, self.waiting = [], 0


class Series:
    """Counts and latencies of a run over its time, in total and by stream.

    Every figure belongs to the second in which it came about: `planned` to that of due, `sent` and lag to that of
    sending (`sent` by the worker's word when the request leaves, before its record), TTFT and the input tokens to
    that of the first token, TPOT to that of the last, E2E and the outcome to that of the end, each ITL gap to that in
    which it ended. `unsent` and `unknown` belong to the second of due. Output tokens are spread evenly from the first
    token to the last, as whole tokens. `tokens_come` are those that came in that second, of any answer, by the
    workers' word at once: what output tokens will be, while their answers go on. `in_flight` is the mean over the
    slot. Tokens, `good` and latencies are those of answers that ended `ok`; TTFT and the input tokens (as many as were
    asked for) of an answer stand here from its first token on, and are taken back if it does not end so.

    Memory: the last 20 minutes stand in slots of 1 s, the last 75 in 10 s, the last 6 hours in 60 s, the last 36 in
    600 s, all before in an hour; a slot keeps only what is not zero. Quantiles are within the histogram's relative error
    of 0.5 %.

    slo: what makes an answer good; without one there is no such figure. names: of the streams.
    """

    def __init__(self, slo: Slo | Slos | None = None, names: Names | None = None) -> None:
        self._slo = slo
        self._names = names or Names()
        self._changes = Changes()
        self._slots: dict[int, _Slot] = {}
        self._from = [0] * len(LEVELS)  # where each level begins; it ends where the finer one does
        self._latest = 0
        self._pending: list[tuple[IntArray, IntArray, FloatArray]] = []  # filed with what workers tell, or for a reader

    # what goes in

    def plan(self, streams: IntArray, due_s: FloatArray) -> None:
        """Rows of the plan fall due then."""
        self._put("planned", due_s, streams)

    def sample(self, at_s: float, lasting_s: float, in_flight: Mapping[int, int]) -> None:
        """So many requests are in flight, by stream, for so long up to now."""
        for stream, count in in_flight.items():
            if count:
                self._put("in_flight", np.array([at_s]), np.array([stream]), sums=count * lasting_s)

    def come(self, since_s: float, at_s: float, tokens: Mapping[int, int]) -> None:
        """So many output tokens have come from then to now, by stream, of whatever answers: evenly, as whole tokens."""
        ends_s = np.append(np.arange(np.floor(since_s) + 1, at_s), at_s)
        begins_s, shares = np.append(since_s, ends_s[:-1]), (ends_s - since_s) / (at_s - since_s)
        for stream, count in tokens.items():
            come = np.diff(np.rint(count * shares), prepend=0.0)
            at, some = begins_s[come > 0], come[come > 0]
            self._put("tokens_come", at, np.full(len(at), stream), sums=some)

    def lose(self, outcome: str, streams: IntArray, due_s: FloatArray) -> None:
        """Rows that ended without a record: unsent or unknown."""
        self._put(outcome, due_s, streams)
        self._file()  # which may be millions

    def add(self, measured: Measurements) -> None:
        """Take what a worker measured."""
        self._put("sent", measured.sent["sent_s"], measured.sent["stream"])
        first = measured.first
        if len(first):
            self._first_tokens(first, first["asked_input"].astype(np.float64))
        rows = measured.records
        if len(rows):
            self._add_records(rows)
        gaps = measured.gaps
        if len(gaps):
            self._put("itl", gaps["second"].astype(np.float64), gaps["stream"], gaps["place"], gaps["count"])
        self._file()

    def merge(self, other: Series) -> None:
        """Add another's figures of the same time."""
        other._file()
        self._file()
        for level, start in enumerate(other._from):
            self._coarsen(level, start)
        self._latest = max(self._latest, other._latest)
        for start, slot in other._slots.items():
            slot.pack()
            self._slot(start).add(slot.keys, slot.sums)
        self._age()

    def _add_records(self, rows: records.Records) -> None:
        for code in np.unique(rows["outcome"]).tolist():
            ended = rows[rows["outcome"] == code]
            self._put(OUTCOMES[code], ended["end_s"], ended["stream"])
        self._durations("lag", rows, rows["sent_s"], np.maximum(records.lag_s(rows), 0.0))
        ok = rows["outcome"] == OK
        told = ~np.isnan(rows["told_first_token_s"])
        as_told = ok & (rows["told_first_token_s"] == rows["first_token_s"]) & (rows["told_sent_s"] == rows["sent_s"])
        as_told &= records.input_tokens(rows) == rows["asked_input"]
        if (wrong := told & ~as_told).any():
            self._take_back(rows[wrong])
        if (untold := ok & ~as_told).any():
            self._first_tokens(rows[untold], records.input_tokens(rows[untold]))
        ok = rows[ok]
        if not len(ok):
            return
        self._durations("tpot", ok, ok["last_token_s"], records.tpot_s(ok))
        self._durations("e2e_latency", ok, ok["end_s"], records.e2e_s(ok))
        seconds, owner, tokens = records.token_flow(ok)
        self._put("output_tokens", seconds, ok["stream"][owner], sums=tokens)
        if self._slo is not None:
            good = ok[self._slo.met(ok)]
            self._put("good", good["end_s"], good["stream"])

    def _first_tokens(self, rows: npt.NDArray[np.void], input_tokens: FloatArray, times: float = 1.0) -> None:
        """First tokens and the prompts before them; where there was no first token the prompt counts with the end."""
        first_s = rows["first_token_s"]
        known = ~np.isnan(first_s)
        at_s = first_s if known.all() else np.where(known, first_s, rows["end_s"])
        streams = rows["stream"]
        for name, since in (("ttft", "sent_s"), ("ttft_from_due", "due_s")):
            self._put(name, first_s[known], streams[known], places((first_s - rows[since])[known]), times)
        self._put("input_tokens", at_s, streams, sums=input_tokens * times)

    def _take_back(self, rows: records.Records) -> None:
        """What was told of the first tokens of answers that ended otherwise."""
        told = np.empty(len(rows), dtype=FIRST)
        for name in ("stream", "due_s", "asked_input"):
            told[name] = rows[name]
        told["sent_s"], told["first_token_s"] = rows["told_sent_s"], rows["told_first_token_s"]
        self._first_tokens(told, told["asked_input"].astype(np.float64), -1.0)

    def _durations(self, name: str, rows: records.Records, at_s: FloatArray, values_s: FloatArray) -> None:
        known = ~np.isnan(values_s)
        self._put(name, at_s[known], rows["stream"][known], places(values_s[known]))

    def _put(
        self,
        name: str,
        at_s: FloatArray,
        streams: npt.NDArray[Any],
        buckets: npt.NDArray[Any] | int = 0,
        sums: npt.NDArray[Any] | float = 1.0,
    ) -> None:
        if len(at_s):
            seconds = np.maximum(np.floor(at_s), 0).astype(np.int64)
            keys = (streams.astype(np.int64) << _FIELD_BITS | _FIELDS[name]) << _PLACE_BITS | buckets
            self._pending.append((seconds, keys, np.broadcast_to(np.asarray(sums, dtype=np.float64), keys.shape)))

    def _file(self) -> None:
        """Put what is pending into its slots."""
        if not self._pending:
            return
        seconds, keys, sums = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        order = np.lexsort((keys, seconds))
        seconds, keys, sums = seconds[order], keys[order], sums[order]
        new = np.concatenate([[True], (np.diff(seconds) != 0) | (np.diff(keys) != 0)])
        starts = np.flatnonzero(new)
        seconds, keys, sums = seconds[starts], keys[starts].astype(np.int32), np.add.reduceat(sums, starts)
        edges = [0, *(np.flatnonzero(np.diff(seconds)) + 1).tolist(), len(seconds)]
        for begin, end in itertools.pairwise(edges):
            self._slot(int(seconds[begin])).add(keys[begin:end], sums[begin:end])
        self._latest = max(self._latest, int(seconds[-1]))
        self._changes.note(int(seconds[0]))
        self._age()

    # the time axis

    def _width(self, second: int) -> int:
        return next(width for (width, _), start in zip(LEVELS, self._from, strict=True) if second >= start)

    def _slot(self, second: int) -> _Slot:
        width = self._width(second)
        return self._slots.setdefault(second // width * width, _Slot())

    def _age(self) -> None:
        """Merge what has become old."""
        for level, (_, kept_s) in enumerate(LEVELS[:-1]):
            coarser = LEVELS[level + 1][0]
            assert kept_s is not None
            self._coarsen(level, (self._latest - kept_s) // coarser * coarser)

    def _coarsen(self, level: int, until: int) -> None:
        """Let a level begin there, in whole slots of the coarser one."""
        if until <= self._from[level]:
            return
        width, coarser = LEVELS[level][0], LEVELS[level + 1][0]
        begin, self._from[level] = self._from[level], until
        for start in range(begin, until, coarser):
            finer = [self._slots.pop(second, None) for second in range(start, start + coarser, width)]
            found = [slot for slot in finer if slot is not None]
            if found:
                merged = _Slot()
                for slot in found:
                    merged.more += [(slot.keys, slot.sums), *slot.more]
                merged.pack()
                self._slots[start] = merged

    # what comes out

    @property
    def changes(self) -> Changes:
        """For readers that have read a part."""
        self._file()
        return self._changes

    def as_dict(self, since_s: float = 0.0, streams: Collection[str] | None = None) -> dict[str, Any]:
        """The columns as plain values, one entry per slot, from the slot that holds `since_s`.

        streams: names of those that are wanted, each of which then has its columns, of zeros where it has no value; None:
        all that have values.

        `start_s`, `width_s`: where each slot begins, and how long it is (1, 10, 60, 600 or 3600 s), ascending without gaps.
        `total`, and `streams` by name: columns of the same length:
          - by name in COUNTS: requests or tokens in the slot (divide by `width_s` for a rate); `in_flight` is a mean; no
            `good` without an SLO;
          - by name in QUANTITIES: `{"count": [...], "p50_ms": [...], "p90_ms": [...], "p99_ms": [...]}`, None in a slot
            without values.
        `quantities`, `counts`: those names. The newest slots are not final: answers still under way add to them.
        """
        self._file()
        starts, widths = self._axis(since_s)
        parts: list[tuple[int, _Slot]] = []
        for place, start in enumerate(starts):
            if (slot := self._slots.get(start)) is not None:
                slot.pack()
                parts.append((place, slot))
        at = np.repeat([place for place, _ in parts], [len(slot.keys) for _, slot in parts]).astype(np.int64)
        keys = np.concatenate([np.empty(0, dtype=np.int64), *(slot.keys for _, slot in parts)])
        sums = np.concatenate([np.empty(0), *(slot.sums for _, slot in parts)])
        owner = keys >> (_FIELD_BITS + _PLACE_BITS)
        inner = keys & (1 << (_FIELD_BITS + _PLACE_BITS)) - 1
        absent = frozenset({"good"} if self._slo is None else ())
        columns = SeriesColumns(len(starts), np.array(widths), COUNTS, QUANTITIES, QUANTILES, _PLACE_BITS, absent)
        return {
            "start_s": starts,
            "width_s": widths,
            "counts": [name for name in COUNTS if name not in absent],
            "quantities": list(QUANTITIES),
            "total": columns.of(at, inner, sums),
            "streams": {
                self._names.of(stream): columns.of(at[owner == stream], inner[owner == stream], sums[owner == stream])
                for stream in self._wanted(owner, streams)
            },
        }

    def _wanted(self, owner: IntArray, streams: Collection[str] | None) -> list[int]:
        there: list[int] = np.unique(owner).tolist()
        if streams is None:
            return there
        known = sorted({*there, *range(len(self._names.names))})
        return [stream for stream in known if self._names.of(stream) in streams]

    def between(self, name: str, start_s: float, end_s: float) -> float:
        """The sum of one of COUNTS over the slots that begin in [start_s, end_s), all streams together."""
        self._file()
        wanted = _FIELDS[name]
        found = 0.0
        for start in _range(self._slots, start_s, end_s):
            slot = self._slots[start]
            slot.pack()
            found += float(slot.sums[(slot.keys >> _PLACE_BITS & (1 << _FIELD_BITS) - 1) == wanted].sum())
        return found

    def by_second(self, name: str, start_s: int, end_s: int) -> FloatArray:
        """One of COUNTS second by second in [start_s, end_s), all streams together, shape (end_s - start_s,): what stands
        in wider slots is spread evenly. Of `in_flight` it is the mean."""
        self._file()
        found = np.zeros(max(end_s - start_s, 0))
        second = start_s
        while second < end_s:
            width = self._width(second)
            begin = second // width * width
            until = min(begin + width, end_s)
            found[second - start_s : until - start_s] = self.between(name, begin, begin + 1) / width
            second = until
        return found

    @property
    def nbytes(self) -> int:
        """Roughly the memory held, in bytes."""
        self._file()
        arrays = 0
        for slot in self._slots.values():
            arrays += slot.keys.nbytes + slot.sums.nbytes + sum(keys.nbytes + sums.nbytes for keys, sums in slot.more)
        return arrays + 600 * len(self._slots)

    def _axis(self, since_s: float) -> tuple[list[int], list[int]]:
        """Starts and widths of the slots from there to the newest."""
        starts: list[int] = []
        widths: list[int] = []
        if not self._slots:
            return starts, widths
        ends = [self._latest + 1, *self._from[:-1]]
        for (width, _), begin, end in reversed(list(zip(LEVELS, self._from, ends, strict=True))):
            begin = max(begin, int(since_s) // width * width)
            found = range(begin, end, width)
            starts += found
            widths += [width] * len(found)
        return starts, widths


def _summed(keys: npt.NDArray[np.int32], sums: FloatArray) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """Equal keys joined, ascending."""
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], sums[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(keys) != 0]))
    return keys[starts], np.add.reduceat(sums, starts)


def _range(slots: Mapping[int, _Slot], start_s: float, end_s: float) -> Sequence[int]:
    """The slots that begin in [start_s, end_s)."""
    if end_s - start_s < len(slots):
        return [second for second in range(int(np.ceil(start_s)), int(np.ceil(end_s))) if second in slots]
    return [start for start in slots if start_s <= start < end_s]
