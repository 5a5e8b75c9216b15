"""Replay a recorded trace: every request at its recorded time, with its recorded prompt and output length.

locust -f locustfiles/replay.py --headless --request-trace-csv my_trace.csv --host http://127.0.0.1:8000
"""

from pathlib import Path

from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.users import CompletionUser


class Replay(ReplayShape):
    trace = Path(__file__).parent.parent / "datasets" / "replay" / "MoE_gt100B.csv"


class Completions(CompletionUser):
    """Sends token ids to /v1/completions; make it a ChatUser for /v1/chat/completions."""
