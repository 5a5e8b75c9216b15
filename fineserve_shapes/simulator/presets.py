"""Engines by name: what servers of well-known size cost per step, computed from public figures.

A preset is a roofline, not a measurement. With W the bytes of all weights, A the weights that one token uses, K the
bytes of KV per token (2 * layers * kv_heads * head_dim * 2), and G processors of F flop/s, B byte/s and M bytes:

    step_s              = overhead_s + W / (G B e)        every step reads all weights (of a mixture of experts too: a
                                                          batch of some size touches all of them)
    per_sequence_s      = 2 A / (G F u) + 10 us           its arithmetic, and the host's work for one more answer
    context_s_per_token = K / (G B e)                     every step reads the KV of its sequences
    prefill_s_per_token = 2 A / (G F u)
    kv_cache_tokens     = (0.9 G M - W - 2 GB G) / K

with e = 0.7 of the bandwidth and u = 0.45 of the arithmetic in reach of good kernels, and an overhead of 2 ms per step
on one processor, 3 ms on several, 5 ms with experts. Sources: shapes from the models' published configurations; F, B
and M from the data sheets of A100 80 GB SXM (312e12 dense BF16, 2.04e12, 80e9) and H100 SXM (989e12, 3.35e12, 80e9).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.batching import EngineParameters

BANDWIDTH_IN_REACH = 0.7
ARITHMETIC_IN_REACH = 0.45
HOST_S_PER_SEQUENCE = 10e-6


@dataclass(frozen=True, slots=True)
class Processor:
    """A GPU's data sheet: dense BF16 flop/s, bytes/s and bytes of memory."""

    flops: float
    bandwidth: float
    memory: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model's published configuration, in BF16."""

    weights: float
    active_weights: float
    layers: int
    kv_heads: int
    head_dim: int

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV per token: keys and values, two bytes each."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


@dataclass(frozen=True, slots=True)
class Preset:
    """An engine, and what it stands for."""

    stands_for: str
    parameters: EngineParameters


def roofline(model: Model, processor: Processor, processors: int, overhead_s: float) -> EngineParameters:
    """The engine of a model on so many processors, as the module computes it."""
    read_bytes_per_s = processors * processor.bandwidth * BANDWIDTH_IN_REACH
    token_s = 2.0 * model.active_weights / (processors * processor.flops * ARITHMETIC_IN_REACH)
    weight_bytes = 2.0 * model.weights
    free_bytes = processors * (0.9 * processor.memory - 2e9) - weight_bytes
    return EngineParameters(
        prefill_s_per_token=token_s,
        step_s=overhead_s + weight_bytes / read_bytes_per_s,
        per_sequence_s=token_s + HOST_S_PER_SEQUENCE,
        context_s_per_token=model.kv_bytes / read_bytes_per_s,
        max_num_batched_tokens=8192,
        kv_cache_tokens=int(free_bytes / model.kv_bytes),
    )


A100 = Processor(flops=312e12, bandwidth=2.04e12, memory=80e9)
H100 = Processor(flops=989e12, bandwidth=3.35e12, memory=80e9)
LLAMA_8B = Model(weights=8.03e9, active_weights=8.03e9, layers=32, kv_heads=8, head_dim=128)
QWEN_14B = Model(weights=14.8e9, active_weights=14.8e9, layers=48, kv_heads=8, head_dim=128)
LLAMA_70B = Model(weights=70.6e9, active_weights=70.6e9, layers=80, kv_heads=8, head_dim=128)
QWEN_235B = Model(weights=235e9, active_weights=22e9, layers=94, kv_heads=4, head_dim=128)

_8B_H100 = Preset("Llama 3.1 8B on one H100", roofline(LLAMA_8B, H100, 1, 2e-3))
_14B_H100 = Preset("Qwen 2.5 14B on one H100", roofline(QWEN_14B, H100, 1, 2e-3))
_70B_H100 = Preset("Llama 3.1 70B on four H100", roofline(LLAMA_70B, H100, 4, 3e-3))
_235B_H100 = Preset("Qwen3 235B-A22B, a mixture of experts, on eight H100", roofline(QWEN_235B, H100, 8, 5e-3))

PRESETS: Mapping[str, Preset] = {
    "default": Preset("a mid-size GPU with a model of some ten billion weights", EngineParameters()),
    "8b-a100": Preset("Llama 3.1 8B on one A100 80 GB", roofline(LLAMA_8B, A100, 1, 2e-3)),
    "8b-h100": _8B_H100,
    "14b-h100": _14B_H100,
    "70b-4xh100": _70B_H100,
    "moe-235b-8xh100": _235B_H100,
    # the four classes of the FineServe traces, each by one of its size
    "dense-lt10b": _8B_H100,
    "dense-10to30b": _14B_H100,
    "dense-30to100b": _70B_H100,
    "moe-gt100b": _235B_H100,
}


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise InputError(f"no preset {name!r}; there are {', '.join(PRESETS)} (--preset)") from None
