"""Capacity: the highest load that keeps to an SLO, searched with any workload, which keeps its shape at every load.

fineserve run capacity --headless --slo ttft=500ms,tpot=50ms --workload poisson --host http://127.0.0.1:8000
"""

from fineserve_shapes.shapes import CapacityShape
from fineserve_shapes.users import CompletionUser


class Capacity(CapacityShape):
    """--workload replay, poisson or parametric, each with its own options."""


class Completions(CompletionUser):
    """Sends token ids to /v1/completions; make it a ChatUser for /v1/chat/completions."""
