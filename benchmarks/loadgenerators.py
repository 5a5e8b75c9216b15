"""Other load generators: how each is started, and how its results are read.

Each sends Poisson arrivals, streams, and asks for answers of full length; all else is as it comes, but for limits that
would make a closed loop of it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sidebyside import Load, Said

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
RESULT = "result.json"


@dataclass(frozen=True)
class Target:
    """Where requests go, and what the server calls its model: the folder of a tokenizer, which most tools want."""

    url: str
    model: str


@dataclass(frozen=True)
class Tool:
    """command(folder of its environment's programs, target, load): how it is started, in a folder of its own.
    read(folder): its result. tries: requests with which it first tries the server. packages: what pip installs.
    without_dependencies: a package whose own list of needs is gigabytes, and of which only one part is run; what that part
    imports stands in packages."""

    name: str
    version: str
    command: Callable[[Path, Target, Load], list[object]]
    read: Callable[[Path], Said]
    packages: tuple[str, ...] = ()
    without_dependencies: str = ""
    variables: Mapping[str, str] = field(default_factory=lambda: OFFLINE)
    tries: int = 0


def _vllm(programs: Path, target: Target, load: Load) -> list[object]:
    # what `vllm bench serve` does, less the command line of all the rest
    start = (
        "import argparse; from vllm.benchmarks.serve import add_cli_args, main;"
        "p = argparse.ArgumentParser(); add_cli_args(p); main(p.parse_args())"
    )
    return [
        programs / "python", "-c", start, "--backend", "openai", "--base-url", target.url, "--endpoint", "/v1/completions",
        "--model", target.model, "--dataset-name", "random", "--random-input-len", load.input_tokens,
        "--random-output-len", load.tokens, "--num-prompts", load.requests, "--request-rate", load.rate_rps,
        "--ignore-eos", "--save-result", "--save-detailed", "--result-filename", RESULT,
    ]  # fmt: skip


def _sglang_options(target: Target, load: Load) -> list[object]:
    return [
        "--backend", "vllm", "--base-url", target.url, "--model", target.model, "--dataset-name", "random-ids",
        "--random-input-len", load.input_tokens, "--random-output-len", load.tokens, "--random-range-ratio", 1,
        "--num-prompts", load.requests, "--request-rate", load.rate_rps, "--output-file", RESULT, "--output-details",
        "--disable-tqdm",
    ]  # fmt: skip


_SGLANG_RUST = """
import importlib.util, pathlib, sys
home = pathlib.Path(importlib.util.find_spec("sglang").origin).parent  # found, not run: that would import torch
(path,) = home.glob("srt/rust_extensions/_bench*.so")
spec = importlib.util.spec_from_file_location("_bench", path)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
bench.run_argv(["sglang-bench", *sys.argv[1:]])
"""

_SGLANG_PYTHON = """
import importlib.util, pathlib, sys, types
home = pathlib.Path(importlib.util.find_spec("sglang").origin).parent
def bare(name, **names):  # in place of a package whose own code would import torch
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [str(home.joinpath(*name.split(".")[1:]))]
    vars(module).update(names)
for name in ("sglang", "sglang.srt", "sglang.srt.utils", "sglang.srt.disaggregation"):
    bare(name)
from transformers import AutoTokenizer
bare("sglang.srt.disaggregation.utils", FAKE_BOOTSTRAP_HOST="2.2.2.2")
bare("sglang.srt.utils.hf_transformers_utils", get_tokenizer=AutoTokenizer.from_pretrained)
from sglang.benchmark.serving import cli_main
cli_main()
"""


def _sglang_rust(programs: Path, target: Target, load: Load) -> list[object]:
    return [programs / "python", "-c", _SGLANG_RUST, *_sglang_options(target, load)]


def _sglang_python(programs: Path, target: Target, load: Load) -> list[object]:
    return [programs / "python", "-c", _SGLANG_PYTHON, *_sglang_options(target, load)]


def _read_lists(folder: Path) -> Said:
    """A list of TTFTs and one of the gaps of each answer, seconds."""
    result = json.loads((folder / RESULT).read_text().splitlines()[-1])
    gaps_s = list(itertools.chain.from_iterable(result["itls"]))
    return Said.of(result["ttfts"], gaps_s, tokens=result["output_lens"])


# told to stay offline, it looks for a folder in its cache; its own tokenizer finds several tokens in one of the server's
def _aiperf(programs: Path, target: Target, load: Load) -> list[object]:
    return [
        programs / "python", programs / "aiperf", "profile", "--model", target.model, "--tokenizer", target.model,
        "--url", target.url, "--endpoint-type", "completions", "--streaming", "--request-rate", load.rate_rps,
        "--arrival-pattern", "poisson", "--request-count", load.requests, "--isl", load.input_tokens, "--isl-stddev", 0,
        "--osl", load.tokens, "--osl-stddev", 0, "--extra-inputs", "ignore_eos:true", "--use-server-token-count",
        "--artifact-dir", "aiperf", "--ui", "none",
    ]  # fmt: skip


def _read_aiperf(folder: Path) -> Said:
    (path,) = folder.glob("aiperf/**/profile_export.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [{name: each["value"] for name, each in row["metrics"].items()} for row in rows if not row.get("error")]
    ttft_s = [1e-3 * row["time_to_first_token"] for row in rows]
    gaps_s = [1e-3 * gap_ms for row in rows for gap_ms in row.get("inter_chunk_latency", ())]
    return Said.of(ttft_s, gaps_s, tokens=[row["output_sequence_length"] for row in rows])


def _guidellm(programs: Path, target: Target, load: Load) -> list[object]:
    return [
        programs / "python", programs / "guidellm", "run", "--disable-console-interactive",
        "--backend", f"kind=openai_http,target={target.url},model={target.model},request_format=/v1/completions",
        "--profile", f"kind=poisson,rate={load.rate_rps}", "--constraint", f"kind=max_requests,count={load.requests}",
        "--tokenizer", f"kind=hf_auto,model={target.model}",
        "--data", f"kind=synthetic_text,prompt_tokens={load.input_tokens},output_tokens={load.tokens}",
        "--output", f"kind=json,path={RESULT}",
    ]  # fmt: skip


def _read_guidellm(folder: Path) -> Said:
    benchmark = json.loads((folder / RESULT).read_text())["benchmarks"][0]

    def quantile(name: str, percentile: str) -> float:
        return float(benchmark["metrics"][name]["successful"]["percentiles"][percentile])

    ttft, itl = "time_to_first_token_ms", "inter_token_latency_ms"
    figures = (quantile(name, percentile) for name in (ttft, itl) for percentile in ("p50", "p99"))
    tokens = [request["output_tokens"] for request in benchmark["requests"]["successful"]]
    return Said(*figures, "its ITL is each request's mean", tokens)


# Poisson counts of whole seconds, each spread over its second, so that the number of requests is right. What it counts for
# its own ITL are tokens of its own, several of which come in one of the server's: the times of chunks are read instead.
def _inference_perf(programs: Path, target: Target, load: Load) -> list[object]:
    options: dict[str, object] = {
        "server.type": "vllm", "server.base_url": target.url, "server.model_name": target.model,
        "tokenizer.pretrained_model_name_or_path": target.model, "api.type": "completion", "api.streaming": "true",
        "load.type": "poisson", "load.stages": json.dumps([{"rate": load.rate_rps, "duration": round(load.seconds)}]),
        "load.worker_max_concurrency": max(100, round(2 * load.streams)),
        "data.type": "random", "storage.local_storage.path": "report",
    }  # fmt: skip
    for part, tokens in (("input", load.input_tokens), ("output", load.tokens)):
        fixed = {"type": "fixed", "min": tokens, "max": tokens, "mean": tokens, "std_dev": 0}
        options |= {f"data.{part}_distribution.{name}": value for name, value in fixed.items()}
    report = "report.request_lifecycle.per_request"
    options |= {report: "true", f"{report}_fields.request": "false", f"{report}_fields.response": "false"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [programs / "python", programs / "inference-perf", *words]


def _read_inference_perf(folder: Path) -> Said:
    rows = json.loads((folder / "report" / "per_request_lifecycle_metrics.json").read_text())
    answers = [(row["start_time"], row["info"]["response_metrics"]) for row in rows if not row.get("error")]
    ttft_s = [answer["chunk_times"][0] - start_s for start_s, answer in answers]
    gaps_s = [later - earlier for _, answer in answers for earlier, later in itertools.pairwise(answer["chunk_times"])]
    tokens = [answer["server_usage"]["completion_tokens"] for _, answer in answers]
    return Said.of(ttft_s, gaps_s, tokens=tokens)


def _evalscope(programs: Path, target: Target, load: Load) -> list[object]:
    return [
        programs / "python", programs / "evalscope", "perf", "--api", "openai", "--url", f"{target.url}/v1/completions",
        "--model", target.model, "--tokenizer-path", target.model, "--open-loop", "--rate", load.rate_rps,
        "--number", load.requests, "--dataset", "random", "--min-prompt-length", load.input_tokens,
        "--max-prompt-length", load.input_tokens, "--max-tokens", load.tokens, "--extra-args", '{"ignore_eos": true}',
    ]  # fmt: skip


def _read_evalscope(folder: Path) -> Said:
    (path,) = folder.glob("outputs/**/benchmark_data.db")
    columns = "first_chunk_latency, inter_token_latencies, completion_tokens"
    with contextlib.closing(sqlite3.connect(path)) as file:
        rows = file.execute(f"SELECT {columns} FROM result WHERE success").fetchall()
    gaps_s = [gap_s for _, text, _ in rows for gap_s in json.loads(text)]
    return Said.of([ttft_s for ttft_s, _, _ in rows], gaps_s, tokens=[tokens for _, _, tokens in rows])


_SGLANG_PACKAGES = (
    "aiohttp", "datasets", "msgspec", "numpy", "orjson", "pillow", "psutil", "pybase64", "pyzmq", "requests", "tqdm",
    "transformers",
)  # fmt: skip
TOOLS = (
    Tool("vLLM bench serve", "", _vllm, _read_lists),
    Tool("SGLang bench_serving, Rust", "0.5.23", _sglang_rust, _read_lists, _SGLANG_PACKAGES, "sglang", tries=1),
    Tool("SGLang bench_serving, Python", "0.5.23", _sglang_python, _read_lists, _SGLANG_PACKAGES, "sglang", tries=1),
    Tool("AIPerf", "0.13.0", _aiperf, _read_aiperf, ("aiperf==0.13.0",), variables={}),
    Tool("inference-perf", "0.7.0", _inference_perf, _read_inference_perf, ("inference-perf==0.7.0",)),
    Tool("evalscope", "1.14.1", _evalscope, _read_evalscope, ("evalscope[perf]==1.14.1",), tries=1),
    Tool("GuideLLM", "0.8.1", _guidellm, _read_guidellm, ("guidellm==0.8.1",), variables={}),
)
"""One without packages is taken from an environment that there is. Those with one package share its environment."""
