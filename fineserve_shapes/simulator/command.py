"""`fineserve simulate`: its flags, and the way from flags to a running server."""

import argparse
import asyncio
import math
import os
import random
import resource
from collections.abc import Callable
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.connection import Limits
from fineserve_shapes.simulator.faults import KINDS, FaultShares
from fineserve_shapes.simulator.model import BatchEngine, ConstantEngine, Engine, EngineParameters
from fineserve_shapes.simulator.server import Settings, serve
from fineserve_shapes.simulator.truth import TruthLog

DEFAULT_MODEL = "simulated"
_DEFAULTS = EngineParameters()


def _number(
    kind: Callable[[str], Any], low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[str], Any]:
    """An argparse type: a number from `low` (or above it) to `high`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
        if not (low < value if above else low <= value) or value > high or value == math.inf:
            bounds = (
                ("above" if above else "at least") + f" {low}" + ("" if high == math.inf else f" and at most {high}")
            )
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {text}")
        return value

    return parse


_positive = _number(float, 0.0, above=True)
_not_negative = _number(float, 0.0)
_count = _number(int, 1)
_share = _number(float, 0.0, 1.0)


def _faults(text: str) -> FaultShares:
    try:
        return FaultShares.parse(text)
    except InputError as error:
        # argparse would hide the text of any other ValueError
        raise argparse.ArgumentTypeError(str(error)) from None


def add_parser(commands: Any) -> None:
    """Add the subcommand to argparse's collection of them."""
    parser = commands.add_parser(
        "simulate",
        help="a server that speaks vLLM's dialect and behaves like one, for tests and first steps",
        description="A simulated LLM server. It speaks HTTP as vLLM (or transformers serve) does, takes time as a "
        "server with continuous batching does, and generates words without meaning. Its figures are a simulator's.",
    )
    parser.set_defaults(run=run)
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    server.add_argument(
        "--port", type=_number(int, 0, 65535), default=8000, help="0 takes a free one (default: %(default)s)"
    )
    server.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="name of the model (default: %(default)s)"
    )
    server.add_argument(
        "--dialect", choices=("vllm", "transformers"), default="vllm", help="whose HTTP (default: vllm)"
    )
    server.add_argument(
        "--max-model-len", type=_number(int, 2), default=32_768, metavar="TOKENS", help="context (%(default)s)"
    )
    server.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable whose value clients must send as key"
    )
    server.add_argument(
        "--keep-alive-s", type=_positive, default=5.0, help="idle connections close after it (%(default)s)"
    )
    server.add_argument(
        "--max-requests-per-connection", type=_count, metavar="N", help="then it closes (default: never)"
    )
    server.add_argument(
        "--max-request-bytes", type=_count, default=32 << 20, help="larger ones are refused (%(default)s)"
    )
    server.add_argument(
        "--stream-interval", type=_count, default=1, metavar="TOKENS", help="tokens per chunk (%(default)s)"
    )
    server.add_argument("--per-request-metrics", action="store_true", help="the server's own times on the usage chunk")
    server.add_argument("--ground-truth", metavar="FILE.jsonl", help="log when each chunk was due and written")
    server.add_argument(
        "--exit-with-parent",
        type=_count,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="end when the process that started this one (PID, if given) has ended",
    )
    engine = parser.add_argument_group("engine", "a step of the batch lasts as long as these add up to")

    def cost(flag: str, default: float, meaning: str, kind: Callable[[str], Any] = _not_negative) -> None:
        engine.add_argument(flag, type=kind, default=default, metavar="X", help=f"{meaning} (default: {default:g})")

    cost("--prefill-tokens-per-s", 1.0 / _DEFAULTS.prefill_s_per_token, "speed of prompts", _positive)
    cost("--prefill-fixed-ms", 1e3 * _DEFAULTS.prefill_fixed_s, "for each prompt begun")
    cost("--decode-step-ms", 1e3 * _DEFAULTS.step_s, "for the step", _positive)
    cost("--decode-step-per-seq-ms", 1e3 * _DEFAULTS.per_sequence_s, "for each sequence in the step")
    cost("--max-num-seqs", _DEFAULTS.max_num_seqs, "sequences that run at once, at most", _count)
    engine.add_argument(
        "--max-num-batched-tokens", type=_count, metavar="X", help="per step (default: 2048, or the seqs)"
    )
    engine.add_argument("--kv-cache-tokens", type=_count, metavar="X", help="slots (default: 262144, or the context)")
    cost("--jitter", _DEFAULTS.jitter, "log deviation of step times")
    cost("--tail-probability", _DEFAULTS.tail_probability, "share of steps that last much longer", _share)
    cost("--tail-shape", _DEFAULTS.tail_shape, "Pareto shape of how much longer", _positive)
    engine.add_argument("--ttft-ms", type=_not_negative, help="with --itl-ms: no batching, first token after this time")
    engine.add_argument("--itl-ms", type=_not_negative, help="with --ttft-ms: then a token each so many ms, per stream")
    engine.add_argument(
        "--eos-probability", type=_share, default=0.0, help="per token, without ignore_eos (%(default)s)"
    )
    engine.add_argument("--seed", type=_number(int, 0), default=0, help="of jitter, lengths and faults (%(default)s)")
    engine.add_argument(
        "--fault",
        type=_faults,
        default=FaultShares({}),
        metavar="KIND=PROBABILITY[,...]",
        help="faults to inject, of: " + ", ".join(KINDS),
    )


def _engine(args: argparse.Namespace) -> Engine:
    if (args.ttft_ms is None) != (args.itl_ms is None):
        raise InputError("--ttft-ms and --itl-ms belong together: give both, or none for the batching engine")
    if args.ttft_ms is not None:
        return ConstantEngine(1e-3 * args.ttft_ms, 1e-3 * args.itl_ms)
    kv_cache_tokens = args.kv_cache_tokens or max(_DEFAULTS.kv_cache_tokens, args.max_model_len)
    if kv_cache_tokens < args.max_model_len:
        raise InputError(
            f"--kv-cache-tokens {kv_cache_tokens} cannot hold one request of --max-model-len {args.max_model_len}"
        )
    parameters = EngineParameters(
        prefill_s_per_token=1.0 / args.prefill_tokens_per_s,
        prefill_fixed_s=1e-3 * args.prefill_fixed_ms,
        step_s=1e-3 * args.decode_step_ms,
        per_sequence_s=1e-3 * args.decode_step_per_seq_ms,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens or max(_DEFAULTS.max_num_batched_tokens, args.max_num_seqs),
        kv_cache_tokens=kv_cache_tokens,
        jitter=args.jitter,
        tail_probability=args.tail_probability,
        tail_shape=args.tail_shape,
    )
    return BatchEngine(parameters, random.Random(f"{args.seed}/steps"))


def _api_key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise InputError(f"the environment variable {name} is not set or empty (--api-key-env)")
    return key


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as it goes: a stream is a descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    settings = Settings(
        model=args.model,
        max_model_len=args.max_model_len,
        transformers=args.dialect == "transformers",
        limits=Limits(args.keep_alive_s, args.max_requests_per_connection, args.max_request_bytes),
        faults=args.fault,
        seed=args.seed,
        eos_probability=args.eos_probability,
        stream_interval=args.stream_interval,
        per_request_metrics=args.per_request_metrics,
        api_key=_api_key(args.api_key_env),
    )
    engine = _engine(args)
    parent: int | None = args.exit_with_parent
    truth = None
    if args.ground_truth is not None:
        try:
            truth = TruthLog(open(args.ground_truth, "wb"))  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {args.ground_truth}: {error.strerror} (--ground-truth)") from None
    _allow_many_connections()
    try:
        asyncio.run(
            serve(settings, engine, truth, args.host, args.port, lambda: parent is not None and os.getppid() != parent)
        )
    finally:
        if truth is not None:
            truth.close()
    return 0
