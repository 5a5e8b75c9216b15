"""Several models in one run: a stream for each, with its own workload, server, model and SLO.

fineserve run mix --headless -t 1m --mix my_mix.toml
"""

from fineserve_shapes.shapes import MixShape
from fineserve_shapes.shipped import SAMPLE_MIX
from fineserve_shapes.users import CompletionUser


class Mix(MixShape):
    mix = SAMPLE_MIX


class Completions(CompletionUser):
    """Sends the requests of every stream that names no other class (`user = "..."` in its table)."""
