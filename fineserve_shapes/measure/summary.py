"""Summary: what a run amounts to, as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fineserve_shapes.measure.certified import Tails
from fineserve_shapes.measure.fidelity import Accounts, Limits, judge
from fineserve_shapes.measure.ledger import Ledger, Ledgers, failed
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.steady import Window, throughput
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.measure.totals import Totals, distribution, ms


def summarise(
    tally: Tally,
    ledgers: Ledgers,
    plan: Mapping[str, Any],
    run: Mapping[str, Any],
    fidelity: Mapping[str, Any],
    of_streams: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The summary as one JSON object.

    of_streams: in a mix, the fidelity of each stream by name.

    The names of the FineServe generator come first (`duration`, `completed`, `request_throughput`, `mean_ttft_ms`, ...),
    then `steady` (see `steady.throughput`), upper bounds on the quantiles (`p99_ttft_bound_ms`, ..., `bounds`; see
    `Tails.figures`), `goodput`, `streams` (by name: the same figures of each, its
    distributions as `Totals.figures` has them, its `goodput`, `ledger` and `fidelity`), `plan`, `ledger` and `fidelity` (as
    `judge` has it). Durations under those names are in milliseconds as the names say;
    `duration` is in seconds, from the start of the run, or the end of its warm-up, to the end of its last request: the
    time that requests took to end after the last one was sent is in it, and in the throughputs beside it; in those of
    `steady` it is not. Rows due in the warm-up are in the ledger, and in nothing else. None stands for what was not
    measured.
    """
    totals = tally.total
    figures = {
        **_figures(totals, tally.tails, tally.warmup_s, throughput(tally.series, tally.window), ledgers.total),
        "goodput": _goodput(tally, totals, ledgers),
    }
    summary: dict[str, Any] = {**run, **figures}
    if tally.names.mixed:
        summary["streams"] = {
            name: _of_stream(tally, number, ledgers, (of_streams or {}).get(name, fidelity))
            for number, name in enumerate(tally.names.names)
        }
    else:
        summary["streams"] = {tally.names.of(0): figures | _entry(totals, ledgers.total, fidelity)}
    summary["plan"] = dict(plan)
    summary["ledger"] = ledgers.total.as_dict()
    summary["fidelity"] = dict(fidelity)
    summary["errors"] = errors_of(totals)
    return summary


def rates(totals: Totals, warmup_s: float) -> dict[str, Any]:
    """Rates of the whole run, its drain included."""
    duration_s = max(totals.last_end_s - warmup_s, 0.0)
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    return {
        "duration": duration_s,
        "completed": totals.completed,
        "request_throughput": totals.completed * per_s,
        "input_throughput": totals.input_tokens * per_s,
        "output_throughput": totals.output_tokens * per_s,
        "concurrency": totals.latencies["e2e_latency"].sum_s * per_s,
    }


def of_nothing(slo: Slo | Slos | None, names: Names | None = None) -> dict[str, Any]:
    """The summary of a run without a request: the names of its figures are those of every run with this SLO and these
    streams."""
    tally = Tally(slo, names=names)
    return summarise(
        tally, Ledgers(mixed=tally.names.mixed), {}, {}, judge(tally.delivery, tally.total, Accounts(), {}, Limits())
    )


def goodput(slo: Slo | None, totals: Totals, planned: int, window: Window) -> dict[str, Any]:
    """Answers that were `ok` and met every SLO, as a share of what was planned and per second.

    slo: None where streams have different ones. planned: requests, the warm-up's left out. Whatever failed, was
    cancelled, was not sent or is unknown is a miss. `rps`, `output_tps`: good requests that were due in the steady window,
    and the output tokens of their answers, per second of the window: an answer counts where its request was due, so that
    time after the last due time takes nothing away. None where there is no such window.
    """
    return {
        "slo": None if slo is None else slo.as_dict(),
        "good": totals.good,
        "of": planned,
        "share": totals.good / planned if planned else None,
        "rps": window.per_s(totals.good),
        "output_tps": window.per_s(totals.good_output_tokens),
    }


def errors_of(totals: Totals) -> list[dict[str, Any]]:
    """What went wrong, the most frequent first."""
    return [
        {"outcome": outcome, "error": text, "requests": count} for (outcome, text), count in totals.errors.most_common()
    ]


def _figures(
    totals: Totals, tails: Tails, warmup_s: float, steady: Mapping[str, Any], ledger: Ledger
) -> dict[str, Any]:
    """Counts, rates and latencies of a run, or of one of its streams."""
    figures: dict[str, Any] = {
        **rates(totals, warmup_s),
        "steady": dict(steady),
        "failed": failed(ledger),
        "short": totals.short,
        "no_finish_reason": totals.no_finish_reason,
        "retried": totals.retried,
        "retried_requests": sorted(totals.retried_requests),
        "total_input_tokens": totals.input_tokens,
        "total_output_tokens": totals.output_tokens,
    }
    for name, histogram in totals.latencies.items():
        found = distribution(histogram)
        figures |= {
            f"mean_{name}_ms": found["mean_ms"],
            f"median_{name}_ms": found["p50_ms"],
            f"std_{name}_ms": found["std_ms"],
            **{f"p{q}_{name}_ms": found[f"p{q}_ms"] for q in (90, 95, 99)},
            f"p99.9_{name}_ms": ms(histogram.quantile(0.999)),
        }
    figures |= tails.figures()
    figures["tokens"] = {
        "asked_output": totals.asked_output_tokens,
        "counted_by_chunks": totals.counted_by_chunks,
        "input_differs_from_plan": totals.input_mismatch,
    }
    return figures


def _of_stream(tally: Tally, number: int, ledgers: Ledgers, fidelity: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one stream of a mix."""
    stream, ledger = tally.of(number), ledgers.by_stream[number]
    window, planned = stream.window, ledger.planned - stream.planned_in_warmup
    steady = throughput(tally.series, window, tally.names.of(number))
    return {
        **_figures(stream.totals, stream.tails, tally.warmup_s, steady, ledger),
        "goodput": None if stream.slo is None else goodput(stream.slo, stream.totals, planned, window),
        **_entry(stream.totals, ledger, fidelity),
    }


def _entry(totals: Totals, ledger: Ledger, fidelity: Mapping[str, Any]) -> dict[str, Any]:
    """What a stream has beside the figures that a run has too."""
    return {
        **totals.figures(),
        "ledger": ledger.as_dict(),
        "fidelity": {name: value for name, value in fidelity.items() if name not in _OF_PROCESSES},
        "errors": errors_of(totals),
    }


_OF_PROCESSES = ("workers", "master", "reads", "passed_on", "ended_twice", "malformed_reports")
"""What the fidelity of a run says of its processes, not of its streams."""


def _goodput(tally: Tally, totals: Totals, ledgers: Ledgers) -> dict[str, Any] | None:
    """Of all streams that have an SLO; None where none has."""
    if tally.slo is None:
        return None
    if not isinstance(tally.slo, Slos):
        return goodput(tally.slo, totals, ledgers.total.planned - tally.planned_in_warmup, tally.window)
    planned = sum(
        ledgers.by_stream[number].planned - tally.of(number).planned_in_warmup
        for number in range(len(tally.names.names))
        if tally.slo.of(number) is not None
    )
    return goodput(tally.slo.common, totals, planned, tally.window)
