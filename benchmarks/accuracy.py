"""Client stamps against the simulator's ground truth, 200 requests/s of 100 tokens at 20 ms per token.

The server stamps each chunk just before it writes it, on the same clock. The client's error of a chunk is its stamp less
the server's; the error of an inter-token gap is the difference of two of them.
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness import observe, quantiles_ms


def main() -> None:
    """Print the errors."""
    for rate_rps in (50.0, 200.0):
        seen = observe(rate_rps, 15.0, 100, ttft_ms=100, itl_ms=20)
        first, gaps, late = [], [], []
        for name, (_, client_s) in seen.client.items():
            server = seen.server[name]
            error_s = np.array(client_s) - np.array(server["chunk_written_s"])
            first.append(error_s[0])
            gaps.append(np.abs(np.diff(error_s)))
            late.append(np.array(server["chunk_written_s"]) - np.array(server["chunk_due_s"]))
        summary = seen.summary
        chunks = sum(len(client_s) for _, client_s in seen.client.values())
        print(f"{rate_rps:g}/s: {summary['ledger']['ok']} of {summary['ledger']['planned']} requests ok;"
              f" CPU with start-up {seen.cpu_s:.1f} s, {seen.cpu_s / chunks * 1e6:.1f} us per chunk")  # fmt: skip
        print(f"  TTFT error (client - server)  {quantiles_ms(first)}")
        print(f"  ITL error (absolute)          {quantiles_ms(np.concatenate(gaps))}")
        print(f"  the server's own lateness     {quantiles_ms(np.concatenate(late))}")
        print(f"  lag (sent - due)              p50 {summary['fidelity']['lag_p50_ms']:.2f}"
              f"  p99 {summary['fidelity']['lag_p99_ms']:.2f} ms", flush=True)  # fmt: skip
