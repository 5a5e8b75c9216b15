"""Headers and a body of one's own: a tenant's header, and every fourth request at another temperature.

locust -f examples/own_request.py --headless -t 3s --num-prompts 5
"""

import json

from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.shipped import SAMPLE_TRACE
from fineserve_shapes.users import ChatUser, PlannedRequest


class Replay(ReplayShape):
    trace = SAMPLE_TRACE


class Tenant(ChatUser):
    def headers(self) -> dict[str, str]:
        return super().headers() | {"X-Team": "search"}

    def body(self, request: PlannedRequest) -> bytes:
        fields = json.loads(super().body(request))
        fields["temperature"] = 1.0 if request.index % 4 == 0 else 0.0
        return json.dumps(fields).encode()

    def name_of(self, request: PlannedRequest) -> tuple[str, str]:
        """Two rows in Locust's statistics."""
        return "POST", "creative chat" if request.index % 4 == 0 else "chat"
