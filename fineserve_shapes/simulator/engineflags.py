"""The flags of an engine, and the way from them to one: on the command line and, for each model, in a models file."""

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.batching import BatchEngine, EngineParameters
from fineserve_shapes.simulator.engine import Engine
from fineserve_shapes.simulator.presets import PRESETS, preset
from fineserve_shapes.simulator.schedule import ConstantEngine


def number(
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


positive = number(float, 0.0, above=True)
not_negative = number(float, 0.0)
count = number(int, 1)
share = number(float, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A flag that sets a field of `EngineParameters`: the flag's value times `unit`, or `unit` divided by it."""

    flag: str
    field: str
    meaning: str
    kind: Callable[[str], Any] = not_negative
    unit: float | None = None  # None: the value as it is, which may be a whole number
    divides: bool = False

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    def to_field(self, value: float) -> Any:
        if self.unit is None:
            return value
        return self.unit / value if self.divides else value * self.unit

    def to_flag(self, value: float) -> str:
        if self.unit is None:
            return f"{value:g}"
        return f"{self.unit / value if self.divides else value / self.unit:.6g}"


_PARAMETERS = (
    _Parameter("--prefill-tokens-per-s", "prefill_s_per_token", "speed of prompts", positive, 1.0, divides=True),
    _Parameter("--prefill-fixed-ms", "prefill_fixed_s", "for each prompt begun", unit=1e-3),
    _Parameter("--decode-step-ms", "step_s", "for the step", positive, 1e-3),
    _Parameter("--decode-step-per-seq-ms", "per_sequence_s", "for each sequence in the step", unit=1e-3),
    _Parameter(
        "--decode-step-per-1k-context-ms", "context_s_per_token", "for each 1,000 tokens of context read", unit=1e-6
    ),
    _Parameter("--max-num-seqs", "max_num_seqs", "sequences that run at once, at most", count),
    _Parameter("--max-num-batched-tokens", "max_num_batched_tokens", "tokens per step, at most", count),
    _Parameter("--kv-cache-tokens", "kv_cache_tokens", "tokens that the KV cache holds", count),
    _Parameter("--block-size", "block_tokens", "tokens per block of the KV cache", count),
    _Parameter("--draft-tokens", "draft_tokens", "tokens drafted per step and sequence", number(int, 0)),
    _Parameter("--draft-acceptance", "draft_acceptance", "probability that a drafted token is accepted", share),
    _Parameter("--draft-ms", "draft_s", "for drafting, per step", unit=1e-3),
    _Parameter("--jitter", "jitter", "log deviation of step times"),
    _Parameter("--tail-probability", "tail_probability", "share of steps that last much longer", share),
    _Parameter("--tail-shape", "tail_shape", "Pareto shape of how much longer", positive),
)
assert {parameter.field for parameter in _PARAMETERS} <= {field.name for field in fields(EngineParameters)}


def add_length_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag of a model's context."""
    parser.add_argument(
        "--max-model-len", type=number(int, 2), default=32_768, metavar="TOKENS", help="context (%(default)s)"
    )


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group of an engine's flags."""
    group = parser.add_argument_group("engine", "a step of the batch lasts as long as these add up to")
    group.add_argument(
        "--preset", choices=tuple(PRESETS), metavar="NAME", default="default",
        help="where the values of the flags below come from that are not given: " + ", ".join(PRESETS),
    )  # fmt: skip
    for parameter in _PARAMETERS:
        group.add_argument(parameter.flag, type=parameter.kind, metavar="X", help=parameter.meaning)
    group.add_argument("--no-enable-prefix-caching", action="store_true", help="share no blocks of equal tokens")
    group.add_argument("--ttft-ms", type=not_negative, help="with --itl-ms: no batching, first token after this time")
    group.add_argument("--itl-ms", type=not_negative, help="with --ttft-ms: every further token after this time")


def flags_of(parameters: EngineParameters) -> str:
    """The flags that make these parameters of the default ones, as one would type them."""
    default = EngineParameters()
    different = [each for each in _PARAMETERS if getattr(parameters, each.field) != getattr(default, each.field)]
    return " ".join(f"{each.flag} {each.to_flag(getattr(parameters, each.field))}" for each in different)


def parameters_of(args: argparse.Namespace) -> EngineParameters:
    """The parameters of a batching engine: the preset's but for the flags that were given."""
    base = preset(args.preset).parameters
    given = {
        parameter.field: parameter.to_field(value)
        for parameter in _PARAMETERS
        if (value := getattr(args, parameter.name)) is not None
    }
    wanted = given.get("kv_cache_tokens", max(base.kv_cache_tokens, args.max_model_len))
    # a block that is not full holds nothing
    block_tokens = given.get("block_tokens", base.block_tokens)
    if wanted // block_tokens * block_tokens < args.max_model_len:
        raise InputError(
            f"--kv-cache-tokens {wanted} in blocks of {block_tokens} cannot hold one request of "
            f"--max-model-len {args.max_model_len}"
        )
    given["kv_cache_tokens"] = wanted
    if "max_num_batched_tokens" not in given:
        sequences = given.get("max_num_seqs", base.max_num_seqs)
        given["max_num_batched_tokens"] = max(
            base.max_num_batched_tokens, sequences * (1 + given.get("draft_tokens", base.draft_tokens))
        )
    return replace(base, prefix_caching=not args.no_enable_prefix_caching, **given)


def engine_of(args: argparse.Namespace, model: str) -> Engine:
    """The engine that these flags describe; its randomness is the seed's and the model's."""
    if (args.ttft_ms is None) != (args.itl_ms is None):
        raise InputError("--ttft-ms and --itl-ms belong together: give both, or none for the batching engine")
    if args.ttft_ms is not None:
        return ConstantEngine(1e-3 * args.ttft_ms, 1e-3 * args.itl_ms)
    return BatchEngine(parameters_of(args), random.Random(f"{args.seed}/steps/{model}"))
