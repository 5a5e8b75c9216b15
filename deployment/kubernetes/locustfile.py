"""Poisson arrivals of chats; run.env says how many, and how long they are."""

from fineserve_shapes.shapes import PoissonShape
from fineserve_shapes.users import ChatUser


class Poisson(PoissonShape):
    num_prompts = 100


class Chat(ChatUser):
    """Sends to /v1/chat/completions."""
