"""A client of one's own: Locust's FastHttpUser, driven open loop by a plan. It fires Locust's events itself.

locust -f examples/own_client.py --headless -t 3s --request-rate 10 --num-prompts 5 --input-length 20 --output-length 4
"""

from locust import FastHttpUser

from fineserve_shapes.shapes import PoissonShape
from fineserve_shapes.users import ArrivalUser, PlannedRequest


class Poisson(PoissonShape):
    pass


class Client(ArrivalUser, FastHttpUser):
    def perform(self, request: PlannedRequest) -> None:
        body = {"prompt": "word " * request.input_tokens, "max_tokens": request.output_tokens, "model": "simulated"}
        self.client.post("/v1/completions", json=body, headers={"X-Request-Id": request.id})
