"""Report: a summary as text for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fineserve_shapes.measure.burstinesstext import burstiness_lines
from fineserve_shapes.measure.capacitytext import capacity_lines
from fineserve_shapes.rounding import or_dash

_LATENCY_ROWS = (
    ("TTFT", "ttft"),
    ("TTFT visible", "visible_ttft"),
    ("TTFT from due", "ttft_from_due"),
    ("TPOT", "tpot"),
    ("ITL", "itl"),
    ("E2E", "e2e_latency"),
)
_MAX_ERRORS = 5


def summary_text(summary: Mapping[str, Any]) -> str:
    """The summary of a run in some lines that fit a terminal."""
    plan, ledger, fidelity = summary["plan"], summary["ledger"], summary["fidelity"]
    ends = [
        f"{count:,} {outcome}"
        for outcome, count in ledger.items()
        if outcome != "planned" and (count or outcome == "ok")
    ]
    marks = [f"{summary[mark]:,} {mark}" for mark in ("short", "no_finish_reason", "retried") if summary[mark]]
    lines = [
        f"run {summary['run']}: {summary['mode']} against {summary['host']}, model {summary['model']}",
        (
            f"plan {plan['fingerprint']}: {_count(plan['requests'])} requests over {or_dash(plan['span_s'])} s,"
            f" {or_dash(plan['rate_rps'])} requests/s"
        ),
        f"ledger: {ledger['planned']:,} planned = {' + '.join(ends)}" + (f"   ({', '.join(marks)})" if marks else ""),
        *(
            ["TLS: the server's certificate was not verified (--insecure)"]
            if summary.get("tls_verified") is False
            else []
        ),
        *_fidelity_lines(fidelity),
        (
            f"done: {summary['completed']:,} requests in {or_dash(summary['duration'])} s, the drain included:"
            f" {_throughput(summary)}"
        ),
        *_token_lines(summary),
        *_steady_lines(summary["steady"]),
        *_goodput_lines(summary["goodput"]),
        *_server_lines(summary.get("server_metrics") or {}),
        *_stream_lines(summary["streams"]),
        "",
        f"{'ms':<15}" + "".join(f"{name:>10}" for name in ("mean", "p50", "p90", "p95", "p99", "p99 bound")),
    ]
    for title, name in _LATENCY_ROWS:
        values = [summary[f"{statistic}_{name}_ms"] for statistic in ("mean", "median", "p90", "p95", "p99")]
        values.append(summary.get(f"p99_{name}_bound_ms"))
        if values[0] is not None and not (name == "visible_ttft" and _all_visible(summary)):
            lines.append(f"{title:<15}" + "".join(f"{or_dash(value):>10}" for value in values))
    lines += _bound_lines(summary["bounds"])
    lines += [f"{'kept' if one['passed'] else 'MISSED'}: {one['message']}" for one in summary.get("checks", ())]
    for error in summary["errors"][:_MAX_ERRORS]:
        lines.append(f"{error['requests']:,} x {error['outcome']}: {error['error']}")
    if len(summary["errors"]) > _MAX_ERRORS:
        lines.append(f"and {len(summary['errors']) - _MAX_ERRORS} other kinds of errors")
    if summary.get("capacity"):
        lines += capacity_lines(summary["capacity"])
    if summary.get("burstiness"):
        lines += burstiness_lines(summary["burstiness"])
    return "\n".join(lines)


def _stream_lines(streams: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row for each stream of a mix."""
    if len(streams) < 2:
        return []
    width = max(15, *(len(name) + 1 for name in streams))
    titles = ("planned", "ok", "asked/s", "sent/s", "lag p99", "TTFT p50", "TTFT p99", "TPOT p50", "good", "verdict")
    lines = ["", f"{'stream (ms)':<{width}}" + "".join(f"{title:>10}" for title in titles)]
    for name, stream in streams.items():
        fidelity, goodput = stream["fidelity"], stream["goodput"]
        share = None if goodput is None else goodput["share"]
        cells = (
            f"{stream['ledger']['planned']:,}",
            f"{stream['ledger']['ok']:,}",
            or_dash(fidelity["asked"]["rate_rps"]),
            or_dash(fidelity["delivered"]["rate_rps"]),
            or_dash(fidelity["lag_p99_ms"]),
            or_dash(stream["median_ttft_ms"]),
            or_dash(stream["p99_ttft_ms"]),
            or_dash(stream["median_tpot_ms"]),
            "-" if share is None else f"{share:.1%}",
            fidelity["verdict"] or "-",
        )
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return lines


def _fidelity_lines(fidelity: Mapping[str, Any]) -> list[str]:
    """Asked against delivered, and the verdict."""
    lines = [
        (
            f"sent: {or_dash(fidelity['sent_rate_rps'])} requests/s; lag p50 {or_dash(fidelity['lag_p50_ms'])} ms,"
            f" p99 {or_dash(fidelity['lag_p99_ms'])} ms, max {or_dash(fidelity['lag_max_ms'])} ms"
        )
    ]
    if fidelity["held"]:
        lines.append(
            f"held back by --max-concurrency: {fidelity['held']:,} requests, p50 {or_dash(fidelity['held_p50_ms'])} ms,"
            f" p99 {or_dash(fidelity['held_p99_ms'])} ms, max {or_dash(fidelity['held_max_ms'])} ms"
            " (not in lag; in figures from due)"
        )
    reads = fidelity["reads"]
    if reads["reads"]:
        lines.append(
            f"read: tokens {or_dash(reads['delay_p50_ms'])} ms (p50), {or_dash(reads['delay_p99_ms'])} ms (p99) after they"
            f" came, {reads['shared_share']:.1%} of the reads with several tokens of a stream; TTFT sure to within"
            f" {or_dash(reads['first_unsure_p50_ms'])} ms, {or_dash(reads['first_unsure_p99_ms'])} ms (p99)"
            + (f", {reads['between']:,} later tokens to within {or_dash(reads['between_p99_ms'])} ms (p99)"
               if reads["between"] else "")
        )  # fmt: skip
    asked, delivered = fidelity["asked"], fidelity["delivered"]
    pairs = [("rate", "requests/s", asked["rate_rps"], delivered["rate_rps"]),
             ("gap CV", "", asked["gap_cv"], delivered["gap_cv"]),
             *((f"dispersion at {width} s", "", value, delivered["dispersion"][width])
               for width, value in asked["dispersion"].items())]  # fmt: skip
    shown = [
        f"{name} {or_dash(left)} / {or_dash(right)}{' ' * bool(unit)}{unit}"
        for name, unit, left, right in pairs
        if left is not None
    ]
    if shown:
        lines.append(f"asked / delivered: {', '.join(shown)}")
    if fidelity["verdict"] is not None:
        lines.append(f"fidelity: {fidelity['verdict']}" + "".join(f"; {reason}" for reason in fidelity["reasons"]))
    return lines


def _throughput(figures: Mapping[str, Any]) -> str:
    return (
        f"{or_dash(figures['request_throughput'])} requests/s,"
        f" {or_dash(figures['input_throughput'])} input and {or_dash(figures['output_throughput'])} output tokens/s"
    )


def _steady_lines(steady: Mapping[str, Any]) -> list[str]:
    """Neither warm-up nor drain."""
    if steady["request_throughput"] is None:
        return []
    line = (
        f"steady, {or_dash(steady['start_s'])} to {or_dash(steady['end_s'])} s (the last due time):"
        f" {_throughput(steady)}, {or_dash(steady['concurrency'])} in flight"
    )
    return [line]


def _all_visible(summary: Mapping[str, Any]) -> bool:
    """Whether every first token was one that a user sees: there was no reasoning before it."""
    return all(summary[f"{name}_visible_ttft_ms"] == summary[f"{name}_ttft_ms"] for name in ("mean", "std", "p99"))


def _goodput_lines(goodput: Mapping[str, Any] | None) -> list[str]:
    if goodput is None:
        return []
    limits = ", ".join(
        f"{name.removesuffix('_ms')} {or_dash(value)} ms" for name, value in (goodput["slo"] or {}).items()
    )
    limits = limits or "the SLO of their stream"
    share = "" if goodput["share"] is None else f" ({goodput['share']:.1%})"
    rate = ""
    if goodput["rps"] is not None:
        rate = (
            f"{or_dash(goodput['rps'])} requests/s, {or_dash(goodput['output_tps'])} output tokens/s (steady window); "
        )
    return [f"goodput: {rate}{goodput['good']:,} of {goodput['of']:,}{share} met {limits}"]


def _server_lines(server: Mapping[str, Any]) -> list[str]:
    """What each server says of its caches and drafts; nothing of those it does not have."""
    if "hosts" in server:
        return [line for url, figures in server["hosts"].items() for line in _lines_of_server(figures, f"server {url}")]
    return _lines_of_server(server, "server")


def _lines_of_server(server: Mapping[str, Any], who: str) -> list[str]:
    parts = []
    if (cached := server.get("cached_prompt_tokens")) is not None and server.get("prompt_tokens"):
        share = cached / server["prompt_tokens"]
        parts.append(f"{cached:,.0f} of {server['prompt_tokens']:,.0f} prompt tokens were cached ({share:.1%})")
    if (rate := server.get("draft_acceptance_rate")) is not None:
        length = or_dash(server["mean_acceptance_length"])
        parts.append(f"{rate:.1%} of draft tokens were accepted, {length} tokens a step")
    return [f"{who}: {'; '.join(parts)}"] if parts else []


def _token_lines(summary: Mapping[str, Any]) -> list[str]:
    """Where token counts are not what they seem; nothing where all is exact."""
    tokens, answers = summary["tokens"], summary["completed"]
    parts = []
    if differ := tokens["input_differs_from_plan"]:
        why = f" ({summary['inexact_prompts']})" if summary.get("inexact_prompts") else ""
        parts.append(f"{differ:,} of {answers:,} prompts had another length than the plan's{why}")
    if counted := tokens["counted_by_chunks"]:
        parts.append(f"output of {counted:,} of {answers:,} answers is counted, since their usage does not say it")
    return [f"tokens: {'; '.join(parts)}"] if parts else []


def _bound_lines(bounds: Mapping[str, Any]) -> list[str]:
    """How sure the bounds are, and where requests were not independent."""
    heaps = [title for title, name in _LATENCY_ROWS if bounds.get(name, {}).get("p99", {}).get("method") == "blocks"]
    return [
        f"p99 bound: p99 is at most that, with {bounds['confidence']:.0%} confidence (-: too few requests to tell)"
        + (f"; requests that hang together count as fewer: {', '.join(heaps)}" if heaps else "")
    ]


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
