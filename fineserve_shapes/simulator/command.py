"""`fineserve simulate`: its flags, and the way from flags to a running server."""

import argparse
import asyncio
import os
import resource
from collections.abc import Callable
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator import fitcommand
from fineserve_shapes.simulator.connection import ConnectionLimits
from fineserve_shapes.simulator.engineflags import (
    add_engine_flags,
    add_length_flag,
    count,
    engine_of,
    not_negative,
    number,
    positive,
    share,
)
from fineserve_shapes.simulator.faults import KINDS, FaultShares, FaultWindow
from fineserve_shapes.simulator.hosting import HostedModel, Hosting
from fineserve_shapes.simulator.modelsfile import read_models
from fineserve_shapes.simulator.server import ServerSettings, serve
from fineserve_shapes.simulator.truth import TruthLog
from fineserve_shapes.simulator.vocabulary import HOSTILE, PLAIN
from fineserve_shapes.simulator.waiting import PacedSelector

DEFAULT_MODEL = "simulated"


def _read(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse(text)
        except InputError as error:
            # argparse would hide the text of any other ValueError
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def add_parser(commands: Any, *, fits: bool = False) -> None:
    """Add the subcommand to argparse's collection of them; its own subcommand `fit` where that is what is asked for."""
    if fits:
        fitcommand.add_parser(commands.add_parser("simulate").add_subparsers(metavar="fit", required=True))
        return
    parser = commands.add_parser(
        "simulate",
        epilog="fineserve simulate fit --help: how to find the flags of a server that was measured.",
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
        "--port", type=number(int, 0, 65535), default=8000, help="0 takes a free one (default: %(default)s)"
    )
    server.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="name of the model (default: %(default)s)"
    )
    server.add_argument(
        "--dialect", choices=("vllm", "transformers"), default="vllm", help="whose HTTP (default: vllm)"
    )
    server.add_argument(
        "--lora-modules", nargs="+", default=[], metavar="NAME", help="names of LoRA adapters, served beside the model"
    )
    server.add_argument("--models", metavar="FILE.toml", help="several models, each with an engine or sharing one")
    add_length_flag(server)
    server.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable whose value clients must send as key"
    )
    server.add_argument(
        "--keep-alive-s", type=positive, default=5.0, help="idle connections close after it (%(default)s)"
    )
    server.add_argument(
        "--max-requests-per-connection", type=count, metavar="N", help="then it closes (default: never)"
    )
    server.add_argument(
        "--max-request-bytes", type=count, default=32 << 20, help="larger ones are refused (%(default)s)"
    )
    server.add_argument(
        "--stream-interval", type=count, default=1, metavar="TOKENS", help="tokens per chunk (%(default)s)"
    )
    server.add_argument("--per-request-metrics", action="store_true", help="the server's own times on the usage chunk")
    server.add_argument(
        "--enable-prompt-tokens-details", action="store_true", help="tokens found in the prefix cache, in the usage"
    )
    server.add_argument(
        "--hostile-text", action="store_true", help="words that are hard to read: quotes, several bytes, U+2028"
    )
    server.add_argument("--ground-truth", metavar="FILE.jsonl", help="log when each chunk was due and written")
    server.add_argument(
        "--exit-with-parent",
        type=count,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="end when the process that started this one (PID, if given) has ended",
    )
    add_engine_flags(parser)
    chance = parser.add_argument_group("chance")
    chance.add_argument(
        "--eos-probability", type=share, default=0.0, help="per token, without ignore_eos (%(default)s)"
    )
    chance.add_argument("--seed", type=number(int, 0), default=0, help="of jitter, lengths and faults (%(default)s)")
    chance.add_argument(
        "--fault",
        type=_read(FaultShares.parse),
        default=FaultShares({}),
        metavar="KIND=PROBABILITY[,...]",
        help="faults to inject, of: " + ", ".join(KINDS),
    )
    chance.add_argument(
        "--fault-at",
        type=_read(FaultWindow.parse),
        action="append",
        default=[],
        metavar="START..END=KIND",
        help="a fault of all requests for a while, as in 60s..90s=http_503; `down` is a server killed and restarted",
    )
    chance.add_argument(
        "--loading-s",
        type=not_negative,
        default=0.0,
        help="how long it loads after a start, answering 503 (%(default)s)",
    )


def _hosting(args: argparse.Namespace) -> Hosting:
    if args.models is not None:
        return read_models(args.models, args)
    return Hosting([HostedModel(args.model, args.max_model_len, engine_of(args, args.model), tuple(args.lora_modules))])


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
    settings = ServerSettings(
        transformers=args.dialect == "transformers",
        vocabulary=HOSTILE if args.hostile_text else PLAIN,
        limits=ConnectionLimits(args.keep_alive_s, args.max_requests_per_connection, args.max_request_bytes),
        faults=args.fault,
        fault_windows=tuple(args.fault_at),
        loading_s=args.loading_s,
        seed=args.seed,
        eos_probability=args.eos_probability,
        stream_interval=args.stream_interval,
        per_request_metrics=args.per_request_metrics,
        prompt_tokens_details=args.enable_prompt_tokens_details,
        api_key=_api_key(args.api_key_env),
    )
    hosting = _hosting(args)
    parent: int | None = args.exit_with_parent

    def parent_gone() -> bool:
        return parent is not None and os.getppid() != parent

    truth = None
    if args.ground_truth is not None:
        try:
            truth = TruthLog(open(args.ground_truth, "wb"))  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {args.ground_truth}: {error.strerror} (--ground-truth)") from None
    _allow_many_connections()
    try:
        selector = PacedSelector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(serve(settings, hosting, truth, args.host, args.port, parent_gone, selector))
    finally:
        if truth is not None:
            truth.close()
    return 0
