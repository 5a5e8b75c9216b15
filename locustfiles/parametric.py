"""Parametric arrivals: gamma gaps whose rate and burstiness change through the day as FineServe's windows say.

fineserve run parametric --headless -t 10m --model-class Dense_10to30B --rate-scale 0.5
"""

from fineserve_shapes.shapes import ParametricShape
from fineserve_shapes.users import CompletionUser


class Parametric(ParametricShape):
    num_prompts = 100


class Completions(CompletionUser):
    """Sends token ids to /v1/completions; make it a ChatUser for /v1/chat/completions."""
