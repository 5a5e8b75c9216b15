"""What pages say of figures, columns and bounds, against the code: all that there is, and nothing that there is not."""

from __future__ import annotations

import re
from itertools import product

from commands import DOCS

from fineserve_shapes.measure.certified import QUANTILES
from fineserve_shapes.measure.fidelity import Limits
from fineserve_shapes.measure.ledger import OUTCOMES
from fineserve_shapes.measure.requestlog import SCHEMA
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.summary import of_nothing
from fineserve_shapes.measure.totals import LATENCIES
from fineserve_shapes.options import RUN
from fineserve_shapes.runner import exits

RESULTS = (DOCS / "results.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()
VERDICT = (DOCS / "verdict.md").read_text()
ADDED = {"run", "mode", "backend", "host", "simulator", "model", "prompt_form", "token_times", "tls_verified",
         "inexact_prompts", "seed", "started_at", "version", "error", "warmup", "request_log", "checks",
         "capacity"}  # fmt: skip
"""Keys of a summary that are known only where there was a run."""


def first_column(text: str, heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = (part for part in section if part.startswith(heading))
    rows = [line for line in found.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def written_out(names: set[str]) -> set[str]:
    """The names with each latency in the place of X, for bounds those that have them."""
    found = set()
    for name in names:
        bounded = name.endswith("_bound_ms")
        latencies = ("ttft", "ttft_from_due", "tpot", "e2e_latency") if bounded else LATENCIES
        found |= {name.replace("_X_", f"_{latency}_") for latency in latencies} if "_X_" in name else {name}
    return found


def test_the_page_of_results_has_the_keys_of_a_summary() -> None:
    nothing = set(of_nothing(Slo.parse("ttft=1s")))
    assert written_out(first_column(RESULTS, "The summary")) == nothing | ADDED
    assert {f"{p}_{name}_bound_ms" for p, name in product(QUANTILES, ("ttft", "tpot"))} <= nothing


def test_the_page_of_results_has_the_columns_of_the_request_log() -> None:
    assert first_column(RESULTS, "The request log") == {*SCHEMA.names, "token_times_s"}


def test_the_page_of_metrics_has_every_outcome() -> None:
    assert first_column(METRICS, "Outcomes") == set(OUTCOMES)


def test_the_page_of_the_verdict_has_every_bound_as_it_is() -> None:
    defaults = {option.flag: option.default for option in RUN if option.flag.startswith("--max-")}
    bounds = {flag: default for flag, default in defaults.items() if flag != "--max-concurrency"}
    named = set(re.findall(r"`(--max-[a-z-]+)`", VERDICT)) - {"--max-concurrency"}
    assert named == set(bounds)
    limits = Limits()
    shown = (
        f"{1e3 * limits.lag_s:g} ms", f"{limits.lag_share:.0%}", f"{limits.rate:.0%}", f"{limits.gap_cv:.0%}",
        f"{limits.dispersion:.0%}", f"{1e3 * limits.uncertainty_s:g} ms", f"{1e3 * limits.ttft_s:g} ms",
        f"{limits.shared:.0%}", f"{limits.lengths:.0%}",
    )  # fmt: skip
    table = VERDICT[: VERDICT.index("\n- ")].replace(" %", "%")
    assert all(bound in table for bound in shown)


def test_the_page_of_ci_has_every_exit_code() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", (DOCS / "ci.md").read_text(), re.MULTILINE)}
    assert codes == {0} | {value for name, value in vars(exits).items() if name.startswith("EXIT_")}
