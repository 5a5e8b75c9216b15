"""Server series: what the server says of itself over the time of a run, read from its Prometheus page.

What may live here: names, parsing and storage. Fetching the page is the engine's business.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

GAUGES = ("running", "waiting", "kv_cache_usage")
COUNTERS = (
    "preemptions",
    "prompt_tokens",
    "generation_tokens",
    "cached_prompt_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "drafts",
    "draft_tokens",
    "accepted_tokens",
)
MAX_SAMPLES = 4_096

_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:gpu_cache_usage_perc": "kv_cache_usage",  # its name before vLLM 0.11
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prompt_tokens_cached_total": "cached_prompt_tokens",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:gpu_prefix_cache_queries_total": "prefix_cache_queries",  # their names before vLLM 0.11
    "vllm:gpu_prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:spec_decode_num_drafts_total": "drafts",
    "vllm:spec_decode_num_draft_tokens_total": "draft_tokens",
    "vllm:spec_decode_num_accepted_tokens_total": "accepted_tokens",
}


def read_metrics(page: bytes) -> dict[str, float]:
    """vLLM's figures in a page of Prometheus text, by the names in GAUGES and COUNTERS; empty where there are none.

    Engines and models add up; of their KV-cache uses (1 is full) it is the mean. Raises ValueError for a page that
    cannot be read.
    """
    # A page has a thousand lines of histograms, and the parser takes some microseconds for each: only ours go in.
    wanted = [line for line in page.splitlines() if line.startswith(_PREFIXES)]
    text = b"\n".join([*wanted, b""]).decode("utf-8", "replace")
    found: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = _NAMES.get(sample.name)
                if name is not None and math.isfinite(sample.value):
                    found.setdefault(name, []).append(float(sample.value))
    except Exception as error:  # the parser trusts its page: it raises whatever comes
        raise ValueError(f"no page of Prometheus text: {type(error).__name__}") from None
    return {name: sum(values) / (len(values) if name == "kv_cache_usage" else 1) for name, values in found.items()}


_PREFIXES = tuple(name.encode() for name in _NAMES)


class ServerSeries:
    """Samples over time in bounded memory: when there are too many, the older half is thinned out.

    The last sample of a pair stands for it where it is a counter, the mean where it is a gauge.
    """

    def __init__(self) -> None:
        self._at_s: list[float] = []
        self._columns: dict[str, list[float | None]] = {name: [] for name in (*GAUGES, *COUNTERS)}

    def __len__(self) -> int:
        return len(self._at_s)

    def add(self, at_s: float, sample: dict[str, float]) -> None:
        """A sample, later than all before."""
        self._at_s.append(round(at_s, 3))
        for name, column in self._columns.items():
            column.append(sample.get(name))
        if len(self._at_s) > MAX_SAMPLES:
            self._thin()

    def as_dict(self, after_s: float = -math.inf) -> dict[str, Any]:
        """`at_s` (seconds of the run, ascending) and a column for each of GAUGES and COUNTERS, None for what is missing."""
        start = bisect_right(self._at_s, after_s)
        return {"at_s": self._at_s[start:], **{name: column[start:] for name, column in self._columns.items()}}

    def figures(self) -> dict[str, Any]:
        """`samples`; the mean and the largest of each gauge; by how much each counter grew; and what follows from those.

        `cached_prompt_tokens`: prompt tokens that were not computed, since the server had them; from its prefix cache's
        hits where it has no count of its own. `prefix_cache_hit_rate`: hits over queries, in tokens. Of speculative
        decoding, `draft_acceptance_rate`: accepted over draft tokens; `mean_acceptance_length`: tokens a step, the one
        that is not a draft included. None where there was none.
        """
        result: dict[str, Any] = {"samples": len(self._at_s)}
        for name in GAUGES:
            values = [value for value in self._columns[name] if value is not None]
            result[f"mean_{name}"] = sum(values) / len(values) if values else None
            result[f"max_{name}"] = max(values, default=None)
        for name in COUNTERS:
            values = [value for value in self._columns[name] if value is not None]
            # a server that was started anew counts from 0
            steps = (max(after - before, 0) or after * (after < before) for before, after in itertools.pairwise(values))
            result[name] = sum(steps) if values else None
        if result["cached_prompt_tokens"] is None:
            result["cached_prompt_tokens"] = result["prefix_cache_hits"]
        accepted_per_draft = _ratio(result["accepted_tokens"], result["drafts"])
        return result | {
            "prefix_cache_hit_rate": _ratio(result["prefix_cache_hits"], result["prefix_cache_queries"]),
            "draft_acceptance_rate": _ratio(result["accepted_tokens"], result["draft_tokens"]),
            "mean_acceptance_length": None if accepted_per_draft is None else 1 + accepted_per_draft,
        }

    def _thin(self) -> None:
        half = MAX_SAMPLES // 2 // 2 * 2
        self._at_s = self._at_s[1:half:2] + self._at_s[half:]
        for name, column in self._columns.items():
            pairs = zip(column[:half:2], column[1:half:2], strict=True)
            if name in GAUGES:
                older = [_mean(first, second) for first, second in pairs]
            else:
                older = [first if second is None else second for first, second in pairs]
            self._columns[name] = older + column[half:]


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _mean(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return first if second is None else second
    return (first + second) / 2
