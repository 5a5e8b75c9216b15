"""What a run says beside what is true, one client process on one core: 10 ms a token, a table of rates.

The simulator has the other core. TTFT is the time to the first token from when the request was sent; the truth of its end
is when the server wrote the first chunk. A run that cannot be believed must say so itself, in the last column.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.harness import Observed, observe

LOADS = ((50.0, 128), (200.0, 128), (500.0, 128), (900.0, 64))
SECONDS = 20.0


def main() -> None:
    """Print the table."""
    print("| requests/s x tokens | sent/s | gap CV asked, sent | lag p99 | TTFT p50 said, true | TTFT p99 said, true"
          " | ITL p99 said, true | server late p99 | CPU s per 1,000 | MB | verdict |")  # fmt: skip
    print("|---" * 11 + "|")
    for rate_rps, tokens in LOADS:
        seen = observe(rate_rps, SECONDS, tokens, "--request-log", "log.parquet", apart=True, ttft_ms=100, itl_ms=10)
        print(row(rate_rps, tokens, seen), flush=True)
        for reason in seen.summary["fidelity"]["reasons"]:
            print(f"<!-- {reason} -->", file=sys.stderr)


def row(rate_rps: float, tokens: int, seen: Observed) -> str:
    """One run as a row."""
    said, true, said_gaps, true_gaps, late = [], [], [], [], []
    for name, (sent_s, client_s) in seen.client.items():
        server = seen.server[name]
        written_s = np.array(server["chunk_written_s"])
        said.append(client_s[0] - sent_s)
        true.append(written_s[0] - sent_s)
        said_gaps.append(np.diff(client_s))
        true_gaps.append(np.diff(written_s))
        late.append(written_s - np.array(server["chunk_due_s"]))
    fidelity = seen.summary["fidelity"]
    cells = [
        f"{rate_rps:g} x {tokens}",
        f"{fidelity['delivered']['rate_rps']:.1f}",
        f"{fidelity['asked']['gap_cv']:.3f}, {fidelity['delivered']['gap_cv']:.3f}",
        f"{fidelity['lag_p99_ms']:.1f}",
        *(f"{_ms(said, q):.1f}, {_ms(true, q):.1f}" for q in (0.5, 0.99)),
        f"{_ms(np.concatenate(said_gaps), 0.99):.1f}, {_ms(np.concatenate(true_gaps), 0.99):.1f}",
        f"{_ms(np.concatenate(late), 0.99):.1f}",
        f"{1e3 * seen.cpu_s / len(seen.client):.2f}",
        f"{seen.peak_mb:.0f}",
        str(fidelity["verdict"]),
    ]
    return f"| {' | '.join(cells)} |"


def _ms(values_s: object, q: float) -> float:
    return 1e3 * float(np.quantile(values_s, q))  # type: ignore[call-overload]
