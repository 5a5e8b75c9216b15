"""Summary: what a run amounts to, as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fineserve_shapes.measure.fidelity import Accounts, Limits, judge
from fineserve_shapes.measure.ledger import Ledger, failed
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.steady import throughput
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.measure.totals import Totals, distribution, ms


def summarise(
    tally: Tally, ledger: Ledger, plan: Mapping[str, Any], run: Mapping[str, Any], fidelity: Mapping[str, Any]
) -> dict[str, Any]:
    """The summary as one JSON object.

    The names of the FineServe generator come first (`duration`, `completed`, `request_throughput`, `mean_ttft_ms`, ...),
    then `steady` (see `steady.throughput`), upper bounds on the quantiles (`p99_ttft_bound_ms`, ..., `bounds`; see
    `Tails.figures`), `goodput`, `streams` (as `Tally.table` has them), `plan`, `ledger` and `fidelity` (as `judge` has
    it). Durations under those names are in milliseconds as the names say; `duration` is in seconds, from the start of the
    run, or the end of its warm-up, to the end of its last request: the time that requests took to end after the last one
    was sent is in it, and in the throughputs beside it; in those of `steady` it is not. Rows due in the warm-up are in
    the ledger, and in nothing else. None stands for what was not measured.
    """
    totals = tally.total
    summary: dict[str, Any] = {
        **run,
        **rates(tally),
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
        summary |= {
            f"mean_{name}_ms": found["mean_ms"],
            f"median_{name}_ms": found["p50_ms"],
            f"std_{name}_ms": found["std_ms"],
            **{f"p{q}_{name}_ms": found[f"p{q}_ms"] for q in (90, 95, 99)},
            f"p99.9_{name}_ms": ms(histogram.quantile(0.999)),
        }
    summary |= tally.tails.figures()
    summary["goodput"] = goodput(tally, totals, ledger)
    summary["tokens"] = {
        "asked_output": totals.asked_output_tokens,
        "counted_by_chunks": totals.counted_by_chunks,
        "input_differs_from_plan": totals.input_mismatch,
    }
    summary["streams"] = tally.table()["streams"]
    summary["plan"] = dict(plan)
    summary["ledger"] = ledger.as_dict()
    summary["fidelity"] = dict(fidelity)
    summary["errors"] = [
        {"outcome": outcome, "error": text, "requests": count} for (outcome, text), count in totals.errors.most_common()
    ]
    return summary


def rates(tally: Tally) -> dict[str, Any]:
    """Rates: of the whole run, its drain included, and those of `steady`."""
    totals = tally.total
    duration_s = max(totals.last_end_s - tally.warmup_s, 0.0)
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    return {
        "duration": duration_s,
        "completed": totals.completed,
        "request_throughput": totals.completed * per_s,
        "input_throughput": totals.input_tokens * per_s,
        "output_throughput": totals.output_tokens * per_s,
        "concurrency": totals.latencies["e2e_latency"].sum_s * per_s,
        "steady": throughput(tally.series, tally.window),
    }


def of_nothing(slo: Slo | None) -> dict[str, Any]:
    """The summary of a run without a request: the names of its figures are those of every run with this SLO."""
    tally = Tally(slo)
    return summarise(tally, Ledger(), {}, {}, judge(tally.delivery, tally.total, Accounts(), {}, Limits()))


def goodput(tally: Tally, totals: Totals, ledger: Ledger) -> dict[str, Any] | None:
    """Answers that were `ok` and met every SLO, as a share of what was planned and per second; None without an SLO.

    Whatever failed, was cancelled, was not sent or is unknown is a miss. `rps`, `output_tps`: good requests that were due
    in the steady window, and the output tokens of their answers, per second of the window: an answer counts where its
    request was due, so that time after the last due time takes nothing away. None where there is no such window.
    """
    if tally.slo is None:
        return None
    planned = ledger.planned - tally.planned_in_warmup
    return {
        "slo": tally.slo.as_dict(),
        "good": totals.good,
        "of": planned,
        "share": totals.good / planned if planned else None,
        "rps": tally.window.per_s(totals.good),
        "output_tps": tally.window.per_s(totals.good_output_tokens),
    }
