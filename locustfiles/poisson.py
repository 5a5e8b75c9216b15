"""Poisson arrivals: requests that come independently of each other, at one rate or at rates that change.

fineserve run poisson --headless -t 2m --request-rate 20 --input-length 512 --output-length "L(200,0.8)"
"""

from fineserve_shapes.shapes import PoissonShape
from fineserve_shapes.users import CompletionUser


class Poisson(PoissonShape):
    request_rate = 5.0
    num_prompts = 100


class Completions(CompletionUser):
    """Sends token ids to /v1/completions; make it a ChatUser for /v1/chat/completions."""
