"""The client's figures beside those of a real server: exact lengths, TTFT and mean ITL.

usage: python -m benchmarks.agreement --host URL --request-trace-csv FILE [further options of locustfiles/replay.py]

vLLM sends its own figures with `--enable-per-request-metrics`; other servers are compared by their token counts alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import REPLAY, locust

_LOCUSTFILE = (
    REPLAY
    + '''
import json

class Compared(CompletionUser):
    """Writes one line per answer: what was asked, what came, and what the server says of it."""
    def result(self, request, result):
        with open({rows!r}, "a") as file:
            file.write(json.dumps({
                "outcome": result.outcome, "finish_reason": result.finish_reason, "short": result.short,
                "asked": [request.input_tokens, request.output_tokens],
                "came": [result.input_tokens, result.output_tokens] if result.tokens_from == "usage" else None,
                "ttft_s": result.ttft_s, "itl_s": result.itl_s.mean() if len(result.itl_s) else None,
                "server": dict(result.server_metrics or {}),
            }) + "\\n")
'''
)


def main() -> None:
    """Run and compare."""
    with tempfile.TemporaryDirectory() as name:
        locustfile, rows = Path(name) / "run.py", Path(name) / "rows"
        locustfile.write_text(_LOCUSTFILE.replace("{rows!r}", repr(str(rows))))
        command = locust(locustfile, "--headless", "--only-summary", *sys.argv[1:])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout[done.stdout.rfind("\nrun ") :].strip() or done.stderr, flush=True)
        if not rows.exists():
            sys.exit(done.returncode or 1)
        compare([json.loads(line) for line in rows.read_text().splitlines()])


def compare(answers: list[dict[str, Any]]) -> None:
    """Print how far the two sides agree."""
    ok = [answer for answer in answers if answer["outcome"] == "ok"]
    told = [answer for answer in ok if answer["came"] is not None]
    equal = [sum(answer["asked"][side] == answer["came"][side] for answer in told) for side in (0, 1)]
    print(f"{len(answers)} answers, {len(ok)} ok, {len(told)} with the server's usage:")
    print(
        f"  input tokens as planned {equal[0]}, output tokens as asked {equal[1]}, short {sum(a['short'] for a in ok)}"
    )
    print(f"  finish reasons {dict(Counter(answer['finish_reason'] for answer in ok))}")
    for title, ours, theirs in (("TTFT", "ttft_s", "time_to_first_token_ms"), ("mean ITL", "itl_s", "mean_itl_ms")):
        pairs = [(1e3 * a[ours], a["server"][theirs]) for a in ok if a[ours] and a["server"].get(theirs)]
        if pairs:
            p10, p50, p90 = np.quantile([client - server for client, server in pairs], [0.1, 0.5, 0.9])
            print(
                f"  {title}, client less server: median {p50:.2f}, p10 {p10:.2f}, p90 {p90:.2f} ms ({len(pairs)} answers)"
            )


if __name__ == "__main__":
    main()
