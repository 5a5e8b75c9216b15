"""Replay a recorded trace: every request at its recorded time, with its recorded prompt and output length.

fineserve run replay --headless --request-trace-csv my_trace.csv --host http://127.0.0.1:8000
"""

from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.shipped import SAMPLE_TRACE
from fineserve_shapes.users import CompletionUser


class Replay(ReplayShape):
    trace = SAMPLE_TRACE


class Completions(CompletionUser):
    """Sends token ids to /v1/completions; make it a ChatUser for /v1/chat/completions."""
