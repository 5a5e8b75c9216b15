"""Other load generators against the paced server, each in an environment of its own under build/peers.

They are installed when first asked for, in the versions below; one that cannot be is a line that says so. Each sends
Poisson arrivals, streams, and asks for answers of full length; all else is as it comes. Environment: PEERS, parts of names
with commas between them (all); MODEL, the folder of a tokenizer, which most of them need; VLLM_BIN, the `vllm` of an
environment that there is, since vLLM is gigabytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pacedserver import BUILD
from benchmarks.sidebyside import MODEL, Client, Load, Said, loads, no_rows, table

HOME = BUILD / "peers"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
RESULT = "result.json"


@dataclass(frozen=True)
class Peer:
    """command(folder of its environment's programs, server's URL, load); read(folder): as of a client. packages: what pip
    installs. without_dependencies: a package whose own list of needs is gigabytes, and of which only one part is run; what
    that part imports stands in packages."""

    name: str
    version: str
    command: Callable[[Path, str, Load], list[object]]
    read: Callable[[Path], Said]
    packages: tuple[str, ...] = ()
    without_dependencies: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: OFFLINE)


def _vllm(programs: Path, url: str, load: Load) -> list[object]:
    # what `vllm bench serve` does, less the command line of all the rest
    start = (
        "import argparse; from vllm.benchmarks.serve import add_cli_args, main;"
        "p = argparse.ArgumentParser(); add_cli_args(p); main(p.parse_args())"
    )
    return [
        programs / "python", "-c", start, "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions",
        "--model", MODEL, "--dataset-name", "random", "--random-input-len", load.input_tokens,
        "--random-output-len", load.tokens, "--num-prompts", load.requests, "--request-rate", load.rate_rps,
        "--ignore-eos", "--save-result", "--save-detailed", "--result-filename", RESULT,
    ]  # fmt: skip


def _sglang_options(url: str, load: Load) -> list[object]:
    return [
        "--backend", "vllm", "--base-url", url, "--model", MODEL, "--dataset-name", "random-ids",
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


def _sglang_rust(programs: Path, url: str, load: Load) -> list[object]:
    return [programs / "python", "-c", _SGLANG_RUST, *_sglang_options(url, load)]


def _sglang_python(programs: Path, url: str, load: Load) -> list[object]:
    return [programs / "python", "-c", _SGLANG_PYTHON, *_sglang_options(url, load)]


def _read_lists(folder: Path) -> Said:
    """A list of TTFTs and one of the gaps of each answer, seconds."""
    result = json.loads((folder / RESULT).read_text().splitlines()[-1])
    return Said.of(result["ttfts"], [gap_s for gaps_s in result["itls"] for gap_s in gaps_s])


# told to stay offline, it looks for a folder in its cache; its own tokenizer finds several tokens in one of the server's
def _aiperf(programs: Path, url: str, load: Load) -> list[object]:
    return [
        programs / "aiperf", "profile", "--model", MODEL, "--tokenizer", MODEL, "--url", url,
        "--endpoint-type", "completions", "--streaming", "--request-rate", load.rate_rps, "--arrival-pattern", "poisson",
        "--request-count", load.requests, "--isl", load.input_tokens, "--isl-stddev", 0, "--osl", load.tokens,
        "--osl-stddev", 0, "--extra-inputs", "ignore_eos:true", "--use-server-token-count", "--artifact-dir", "aiperf",
        "--ui", "none",
    ]  # fmt: skip


def _read_aiperf(folder: Path) -> Said:
    (path,) = folder.glob("aiperf/**/profile_export_aiperf.json")
    found = json.loads(path.read_text())
    ttft, itl = found["time_to_first_token"], found["inter_token_latency"]
    return Said(ttft["p50"], ttft["p99"], itl["p50"], itl["p99"], "its ITL is each request's mean")


def _guidellm(programs: Path, url: str, load: Load) -> list[object]:
    return [
        programs / "guidellm", "run", "--disable-console-interactive",
        "--backend", f"kind=openai_http,target={url},model={MODEL},request_format=/v1/completions",
        "--profile", f"kind=poisson,rate={load.rate_rps}", "--constraint", f"kind=max_requests,count={load.requests}",
        "--tokenizer", f"kind=hf_auto,model={MODEL}",
        "--data", f"kind=synthetic_text,prompt_tokens={load.input_tokens},output_tokens={load.tokens}",
        "--output", f"kind=json,path={RESULT}",
    ]  # fmt: skip


def _read_guidellm(folder: Path) -> Said:
    metrics = json.loads((folder / RESULT).read_text())["benchmarks"][0]["metrics"]

    def quantile(name: str, percentile: str) -> float:
        return float(metrics[name]["successful"]["percentiles"][percentile])

    ttft, itl = "time_to_first_token_ms", "inter_token_latency_ms"
    figures = (quantile(name, percentile) for name in (ttft, itl) for percentile in ("p50", "p99"))
    return Said(*figures, "its ITL is each request's mean")


SGLANG = (
    "aiohttp",
    "datasets",
    "msgspec",
    "numpy",
    "orjson",
    "pillow",
    "psutil",
    "pybase64",
    "pyzmq",
    "requests",
    "tqdm",
)
PEERS = (
    Peer("vLLM bench serve", "", _vllm, _read_lists),
    Peer("SGLang bench_serving, Rust", "0.5.23", _sglang_rust, _read_lists, ("transformers", *SGLANG), "sglang"),
    Peer("SGLang bench_serving, Python", "0.5.23", _sglang_python, _read_lists, ("transformers", *SGLANG), "sglang"),
    Peer("AIPerf", "0.13.0", _aiperf, _read_aiperf, ("aiperf==0.13.0",), environment={}),
    Peer("GuideLLM", "0.8.1", _guidellm, _read_guidellm, ("guidellm==0.8.1",), environment={}),
)
"""Those with one package of the same environment share it."""


class Missing(Exception):
    """A peer that cannot be had; the text is why."""


def installed(peer: Peer) -> tuple[Path, str]:
    """The folder of its programs, and its version."""
    if not peer.packages:
        binary = os.environ.get("VLLM_BIN")
        if binary is None:
            raise Missing("not installed: VLLM_BIN names the `vllm` of an environment that has it")
        return Path(binary).absolute().parent, _said(
            Path(binary).absolute().parent, "import vllm; print(vllm.__version__)"
        )
    home = HOME / (peer.without_dependencies or peer.packages[0].partition("==")[0])
    ready = home / f"ready-{peer.version}"
    if not ready.exists():
        _do(sys.executable, "-m", "venv", "--clear", str(home))
        pip = (str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        if peer.without_dependencies:
            _do(*pip, "--no-deps", f"{peer.without_dependencies}=={peer.version}")
        _do(*pip, *peer.packages)
        ready.touch()
    return home / "bin", peer.version


def _said(programs: Path, text: str) -> str:
    done = subprocess.run([programs / "python", "-c", text], capture_output=True, text=True, check=False)
    return (done.stdout.split() or ["?"])[-1]


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines() or ["?"]
        )
        raise Missing(f"not installed: {lines[-1]}")


def cases() -> Iterator[tuple[Client, Load]]:
    """Each peer that is asked for, at each load."""
    wanted = os.environ.get("PEERS", "").lower().split(",")
    for peer in PEERS:
        if not any(name in peer.name.lower() for name in wanted):
            continue
        try:
            programs, version = installed(peer)
        except Missing as missing:
            no_rows(peer.name, str(missing))
            continue
        for load in loads():
            yield Client(peer.name, version, _bound(peer, programs), peer.read, environment=peer.environment), load


def _bound(peer: Peer, programs: Path) -> Callable[[str, Load, Path], list[Any]]:
    return lambda url, load, _folder: peer.command(programs, url, load)


def main() -> None:
    """Print the table."""
    table("peers", cases())
