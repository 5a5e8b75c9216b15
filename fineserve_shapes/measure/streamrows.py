"""Stream rows: a mix as a table of its streams, for whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fineserve_shapes.outcome import FAILURES


def stream_row(
    entry: Mapping[str, Any],
    ledger: Mapping[str, int],
    fidelity: Mapping[str, Any],
    good_share: float | None,
    model: str | None = None,
    in_flight: int | None = None,
) -> dict[str, Any]:
    """The row of a stream, or of all together.

    entry: as `Tally.table` has it. ledger: as `Ledger.as_dict`. fidelity: as `judge` has it. good_share: of the requests
    that count, how many met every SLO. model, in_flight: where they are known.
    """
    asked, delivered = fidelity.get("asked") or {}, fidelity.get("delivered") or {}
    return {
        "model": model,
        "planned": ledger["planned"],
        "ok": ledger["ok"],
        "failed": sum(ledger[outcome] for outcome in FAILURES),
        "in_flight": in_flight,
        "asked_rps": asked.get("rate_rps"),
        "sent_rps": delivered.get("rate_rps"),
        "lag_p99_ms": fidelity.get("lag_p99_ms"),
        "ttft_p50_ms": entry["ttft"]["p50_ms"],
        "ttft_p99_ms": entry["ttft"]["p99_ms"],
        "tpot_p50_ms": entry["tpot"]["p50_ms"],
        "good_share": good_share,
        "verdict": fidelity.get("verdict"),
        "reasons": list(fidelity.get("reasons") or ()),
    }
