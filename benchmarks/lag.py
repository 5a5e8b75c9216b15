"""Schedule lag of one process: requests of five tokens, at 100 to 1,000 arrivals/s."""

from __future__ import annotations

from benchmarks.harness import observe


def main() -> None:
    """Print the lag at each rate."""
    for rate_rps in (100.0, 500.0, 1000.0):
        fidelity = observe(rate_rps, 15.0, 5, ttft_ms=20, itl_ms=10).summary["fidelity"]
        print(
            f"{rate_rps:g}/s asked, {fidelity['sent_rate_rps']:.1f}/s sent:"
            f" lag p50 {fidelity['lag_p50_ms']:.2f}  p99 {fidelity['lag_p99_ms']:.2f}"
            f"  max {fidelity['lag_max_ms']:.2f} ms",
            flush=True,
        )
