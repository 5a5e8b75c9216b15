"""Source: a request log read back into what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.htmlreport.logfile import TIMES, LogFile
from fineserve_shapes.measure import records
from fineserve_shapes.measure.capacitysummary import CAPACITY_NAMES, STEP_NAMES
from fineserve_shapes.measure.fidelity import Accounts, Limits, judge
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.measurements import GAPS, MAX_ERROR_CHARS, SENT, Measurements
from fineserve_shapes.measure.names import ALONE, Names
from fineserve_shapes.measure.resampling import Cells, Sample, Spans
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.outcome import OK, OUTCOMES, Outcome

_LOST = tuple(OUTCOMES.index(outcome) for outcome in (Outcome.UNSENT, Outcome.UNKNOWN))


@dataclass(frozen=True, slots=True)
class RunData:
    """One run.

    name: of the run, or else of its file. rows: requests that were sent, in order of sending; warm: which of them the
    warm-up's. ids, errors, workers: of each row. ledger: `planned` and every outcome. tally, fidelity: as the run itself
    had them. ledgers, fidelities: in a mix, of each stream by its name. summary: what the run wrote at its end; empty where
    it is not known. lost_due_s: when requests were due that were never sent, or not heard of, the warm-up's left out. gaps:
    between chunks, by block of time; None where the file has no times of tokens.
    """

    name: str
    rows: records.Records
    warm: BoolArray
    ids: list[str]
    errors: list[str | None]
    workers: list[str | None]
    ledger: dict[str, int]
    tally: Tally
    fidelity: dict[str, Any]
    summary: Mapping[str, Any]
    ledgers: dict[str, dict[str, int]]
    fidelities: dict[str, dict[str, Any]]
    lost_due_s: FloatArray
    gaps: Cells | None

    @classmethod
    def told(cls, summary: Mapping[str, Any], file: Path) -> RunData:
        """A run of which there is the summary alone, without any of its requests. file: where that is from.

        Raises InputError for what is no summary.
        """
        ledger, fidelity = summary.get("ledger"), summary.get("fidelity")
        if not isinstance(ledger, dict) or {"planned", *OUTCOMES} - ledger.keys() or not isinstance(fidelity, dict):
            raise InputError(f"{file} is no summary: it has no ledger and no fidelity (--output-file writes one)")
        listed = summary.get("streams")
        streams = listed if isinstance(listed, dict) and all(isinstance(one, dict) for one in listed.values()) else {}
        names = Names(tuple(streams) or (ALONE,), len(streams) > 1)
        parts = {name: streams[name] for name in names.names if names.mixed}
        return cls(
            str(summary.get("run") or file.stem), records.from_rows([]), np.empty(0, dtype=bool), [], [], [],
            dict(ledger), Tally(_slos(summary, names), names=names), fidelity, summary,
            {name: dict(part.get("ledger") or ledger) for name, part in parts.items()},
            {name: part.get("fidelity") or fidelity for name, part in parts.items()}, np.empty(0), None,
        )  # fmt: skip

    @classmethod
    def read(
        cls, path: Path, summary: Mapping[str, Any] | None = None, itl: Mapping[str, Histogram] | None = None
    ) -> RunData:
        """Read a request log (.parquet, .jsonl or .csv).

        summary: the run's; a .parquet file has it inside. itl: the gaps between chunks by the stream's name; without them
        they are taken from the tokens' times, where the file has those. Raises InputError for what is no request log.
        """
        return cls.of(LogFile.read(path), summary, itl)

    @classmethod
    def of(
        cls, log: LogFile, summary: Mapping[str, Any] | None = None, itl: Mapping[str, Histogram] | None = None
    ) -> RunData:
        """The same of a log that has been read."""
        path = log.path
        summary = summary or log.about
        table = log.table.sort_by([("sent_s", "ascending")])
        names = _names(table, summary)
        numbers = _numbers(table, names)
        table = table.set_column(table.column_names.index("stream"), "stream", pa.array(numbers))
        outcome = _codes(table, path)
        # an unknown request has been leased and not been heard of: it has no times
        sent = np.isin(outcome, _LOST, invert=True) & ~np.isnan(_column(table, "sent_s", np.nan, np.float64))
        kept, lost = table.filter(pa.array(sent)), table.filter(pa.array(~sent))
        rows = _rows(kept, outcome[sent])
        warm = _column(kept, "warmup", False, np.bool_)
        errors = [None if text is None else text[:MAX_ERROR_CHARS] for text in kept["error"].to_pylist()]
        warm_due_s = rows["due_s"][warm]
        warmup_s = float(np.nextafter(warm_due_s.max(), np.inf)) if len(warm_due_s) else 0.0
        tally = Tally(_slos(summary, names), warmup_s, names=names)
        _plan(tally, table)
        gaps = _gaps(kept, rows, warm) if itl is None else None
        if itl is None:
            of_streams = {} if gaps is None else _itl(*gaps, rows)
        else:
            of_streams = {names.number(name): each for name, each in itl.items()}
        tally.add(Measurements(rows, _sent(rows), of_streams, np.empty(0, dtype=GAPS), _grouped(rows, errors)))
        lost_due_s = _column(lost, "due_s", np.nan, np.float64)
        for code in _LOST:
            mine = outcome[~sent] == code
            tally.series.lose(OUTCOMES[code], _column(lost, "stream", 0, np.int64)[mine], lost_due_s[mine])
        counted_due_s = lost_due_s[lost_due_s >= warmup_s]
        cells = (
            None
            if gaps is None
            else _cells(
                *gaps, rows, Sample(rows[~warm], lost_due_s=counted_due_s, start_s=_start_s(summary, warmup_s)).spans
            )
        )
        ledger = _ledger(outcome)
        ledgers = {name: _ledger(outcome[numbers == number]) for number, name in enumerate(names.names) if names.mixed}
        return cls(
            str(summary.get("run") or path.stem), rows, warm, _texts(kept, "request_id"), errors,
            [text or None for text in _texts(kept, "worker")], ledger, tally,
            _fidelity(tally, ledger, summary), summary, ledgers, _fidelities(tally, ledgers, summary),
            counted_due_s, cells,
        )  # fmt: skip

    @property
    def sample(self) -> Sample:
        """Its requests without the warm-up's: what differences are taken from."""
        return Sample(self.rows[~self.warm], self.tally.slo, self.lost_due_s, self.gaps, self.start_s)

    @property
    def start_s(self) -> float:
        """When the steady window began."""
        return _start_s(self.summary, self.tally.warmup_s)

    def told_latency(self, stream: str | None, name: str) -> dict[str, Any] | None:
        """A latency by its name as the summary has it, of a stream or (None) of all; None where it does not.

        In the form of `totals.distribution`, but for what a summary has not of all: `count`, `min_ms` and `max_ms`.
        """
        streams = self.summary.get("streams")
        streams = streams if isinstance(streams, dict) else {}
        if stream is None and len(streams) == 1:
            (stream,) = streams
        if stream is not None:
            of_stream = streams.get(stream)
            found = of_stream.get(name) if isinstance(of_stream, dict) else None
        else:
            titles = {"p50": "median"}
            found = {
                f"{short}_ms": self.summary.get(f"{titles.get(short, short)}_{name}_ms")
                for short in ("mean", "std", "p50", "p90", "p95", "p99", "p99.9")
            }
        return found if isinstance(found, dict) and found.get("mean_ms") is not None else None

    @property
    def capacity(self) -> Mapping[str, Any] | None:
        """What the search said whose last run this was: see `capacity_figures`; None for what is none of ours."""
        found = self.summary.get("capacity")
        if not isinstance(found, dict) or any(name not in found for name in CAPACITY_NAMES):
            return None
        steps = found["steps"]
        whole = isinstance(steps, list) and all(isinstance(step, dict) and step.keys() >= STEP_NAMES for step in steps)
        return found if whole else None

    @property
    def burstiness(self) -> list[Mapping[str, Any]]:
        """The runs of several kinds of arrivals of which this was the last: see `ArrivalsStep.figures`."""
        found = self.summary.get("burstiness")
        runs = found.get("runs") if isinstance(found, dict) else None
        return [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []

    @property
    def counted(self) -> records.Records:
        """Rows that ended `ok`, the warm-up's left out."""
        found: records.Records = self.rows[(self.rows["outcome"] == OK) & ~self.warm]
        return found


def _column(table: Any, name: str, missing: Any, dtype: Any) -> npt.NDArray[Any]:
    return np.asarray(pc.fill_null(table[name].combine_chunks(), missing).to_numpy(zero_copy_only=False), dtype=dtype)


def _names(table: Any, summary: Mapping[str, Any]) -> Names:
    """Of the streams, in the order of the summary where there is one."""
    told = summary.get("streams")
    known = [str(name) for name in told] if isinstance(told, dict) else []
    found = pc.unique(table["stream"].cast(pa.string())).to_pylist()
    names = tuple(dict.fromkeys([*known, *sorted(name for name in found if name)])) or (ALONE,)
    return Names(names, len(names) > 1)


def _numbers(table: Any, names: Names) -> npt.NDArray[np.int16]:
    places = pc.index_in(table["stream"].cast(pa.string()), value_set=pa.array(names.names))
    numbers: npt.NDArray[np.int16] = _column(pa.table({"stream": places}), "stream", 0, np.int16)
    return numbers


def _start_s(summary: Mapping[str, Any], warmup_s: float) -> float:
    """The end of the warm-up: as it was asked for, where the summary says it."""
    steady = summary.get("steady")
    told = steady.get("start_s") if isinstance(steady, dict) else None
    return float(told) if isinstance(told, int | float) else warmup_s


def _ledger(outcome: IntArray) -> dict[str, int]:
    counts = np.bincount(outcome, minlength=len(OUTCOMES)).tolist()
    return {"planned": len(outcome), **dict(zip(OUTCOMES, counts, strict=True))}


def _texts(table: Any, name: str) -> list[str]:
    return [(text or "")[:200] for text in table[name].to_pylist()]


def _codes(table: Any, path: Path) -> IntArray:
    codes = _column(
        pa.table({"code": pc.index_in(table["outcome"], value_set=pa.array(OUTCOMES))}), "code", -1, np.int64
    )
    if (codes < 0).any():
        raise InputError(f"{path} is no request log: {table['outcome'][int(np.argmin(codes))]!s:.100} is no outcome")
    return codes


def _rows(table: Any, outcome: IntArray) -> records.Records:
    rows = np.zeros(table.num_rows, dtype=records.RECORD)
    rows["told_sent_s"] = rows["told_first_token_s"] = np.nan
    for name in records.RECORD.names or ():
        if name in table.column_names and name != "outcome":
            kind = records.RECORD[name]
            missing = np.nan if kind.kind == "f" else False if kind.kind == "b" else -1
            if name in ("status", "chunks", "first_chunk_tokens", "stream"):
                missing = 0
            rows[name] = _column(table, name, missing, kind)
    rows["outcome"] = outcome
    rows["from_usage"] = np.array([text == "usage" for text in table["tokens_from"].to_pylist()], dtype=bool)
    for name in ("due_s", "end_s"):
        rows[name] = np.where(np.isnan(rows[name]), rows["sent_s"], rows[name])
    return rows


def _sent(rows: records.Records) -> npt.NDArray[np.void]:
    sent = np.empty(len(rows), dtype=SENT)
    sent["stream"], sent["sent_s"], sent["due_s"] = rows["stream"], rows["sent_s"], rows["due_s"] + rows["held_s"]
    return sent


def _plan(tally: Tally, table: Any) -> None:
    due_s = _column(table, "due_s", np.nan, np.float64)
    streams = _column(table, "stream", 0, np.int64)
    order = np.argsort(due_s, kind="stable")
    order = order[~np.isnan(due_s[order])]
    tally.plan(streams[order], due_s[order])


def _gaps(table: Any, rows: records.Records, warm: BoolArray) -> tuple[FloatArray, IntArray] | None:
    """The gaps between chunks of answers that count, and the row of each; None without times of tokens."""
    if TIMES not in table.column_names:
        return None
    lists = table[TIMES].combine_chunks()
    if pa.types.is_string(lists.type):
        lists = pc.split_pattern(lists, ";").cast(pa.list_(pa.float64()))
    if not pa.types.is_list(lists.type):
        return None
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    times_s = pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.float64)
    owner = np.repeat(np.arange(len(rows)), sizes)
    inside = (owner[1:] == owner[:-1]) & ((rows["outcome"] == OK) & ~warm)[owner[1:]]
    return np.diff(times_s)[inside], owner[1:][inside]


def _itl(gaps_s: FloatArray, owner: IntArray, rows: records.Records) -> dict[int, Histogram]:
    streams = rows["stream"][owner]
    found: dict[int, Histogram] = {}
    for stream in np.unique(streams).tolist():
        found[stream] = Histogram()
        found[stream].record(gaps_s[streams == stream])
    return found


def _cells(gaps_s: FloatArray, owner: IntArray, rows: records.Records, spans: Spans) -> Cells | None:
    """In milliseconds."""
    return Cells.of(1e3 * gaps_s, spans.block(rows["due_s"])[owner]) if len(gaps_s) else None


def _grouped(rows: records.Records, errors: list[str | None]) -> list[tuple[tuple[str, str], IntArray]]:
    places: dict[tuple[str, str], list[int]] = {}
    for place, text in enumerate(errors):
        if text is not None:
            places.setdefault((OUTCOMES[rows["outcome"][place]], text), []).append(place)
    return [(error, np.array(at, dtype=np.int64)) for error, at in places.items()]


def _slos(summary: Mapping[str, Any], names: Names) -> Slo | Slos | None:
    """What made answers good: of each stream of a mix, else of all."""
    if not names.mixed:
        return _slo(summary)
    told = summary.get("streams")
    found = Slos(tuple(_slo(told.get(name)) if isinstance(told, dict) else None for name in names.names))
    return found or None


def _slo(figures: Any) -> Slo | None:
    goodput = figures.get("goodput") if isinstance(figures, Mapping) else None
    if not isinstance(goodput, dict) or not goodput.get("slo"):
        return None
    return Slo(tuple((name.removesuffix("_ms"), limit_ms / 1e3) for name, limit_ms in goodput["slo"].items()))


def _fidelity(tally: Tally, ledger: Mapping[str, int], summary: Mapping[str, Any]) -> dict[str, Any]:
    told = summary.get("fidelity")
    if isinstance(told, dict):
        return told
    # without its summary: the same measures; what was never due, and how well clocks were known, the log does not say
    total = tally.total
    tally.finish(max(total.last_sent_s, 0.0))
    return judge(tally.delivery, total, Accounts(0, ledger[Outcome.UNKNOWN]), {}, Limits())


def _fidelities(
    tally: Tally, ledgers: Mapping[str, Mapping[str, int]], summary: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Of each stream of a mix."""
    told = summary.get("streams")
    found = {}
    for name in ledgers:
        of_stream = told.get(name) if isinstance(told, dict) else None
        known = of_stream.get("fidelity") if isinstance(of_stream, dict) else None
        if not isinstance(known, dict):
            part = tally.of(tally.names.number(name))
            known = judge(part.delivery, part.totals, Accounts(0, ledgers[name][Outcome.UNKNOWN]), {}, Limits())
        found[name] = known
    return found
