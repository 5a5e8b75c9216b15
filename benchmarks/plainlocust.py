"""What a Locust user writes by hand to load-test a stream: read by lines, the first one of data is the first token.

locust -f benchmarks/plainlocust.py RequestsUser --headless --host URL -u USERS ...

Each user waits an exponential time between requests, so that many together are about Poisson. Environment: TOKENS; WAIT_S,
a user's mean wait, about as long as an answer takes; REQUESTS, after which the run ends; ROWS, the file that gets a line of
JSON for each request: TTFT and the gaps, seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Iterator

from locust import FastHttpUser, HttpUser, events
from locust.env import Environment
from locust.exception import StopUser

BODY = {
    "model": "paced", "prompt": list(range(1000, 1200)), "max_tokens": int(os.environ["TOKENS"]), "stream": True,
    "ignore_eos": True,
}  # fmt: skip
ROWS: list[tuple[float, list[float]]] = []


WAIT_S = float(os.environ["WAIT_S"])
REQUESTS = int(os.environ["REQUESTS"])


class _Waiting:
    """Waits an exponential time between requests; at first so long as if the load had gone on for a while."""

    environment: Environment
    begun = 0

    def wait_time(self) -> float:
        return random.expovariate(1 / WAIT_S)

    def on_start(self) -> None:
        time.sleep(random.choice((0.0, random.uniform(0.0, WAIT_S))) + self.wait_time())

    def once(self) -> None:
        """One request, unless there were enough."""
        if _Waiting.begun >= REQUESTS:
            raise StopUser
        _Waiting.begun += 1
        sent_s = time.perf_counter()
        times_s = [time.perf_counter() for line in self.lines() if line.startswith("data: {")]
        ROWS.append((times_s[0] - sent_s, [later - earlier for earlier, later in itertools.pairwise(times_s)]))
        if len(ROWS) == REQUESTS:
            self.environment.runner.quit()

    tasks = (once,)

    def lines(self) -> Iterator[str]:
        """Send a request, and yield its answer's lines as they come."""
        raise NotImplementedError


class RequestsUser(_Waiting, HttpUser):
    def lines(self) -> Iterator[str]:
        with self.client.post("/v1/completions", json=BODY, stream=True, catch_response=True) as response:
            yield from (line.decode() for line in response.iter_lines())


class FastUser(_Waiting, FastHttpUser):
    def lines(self) -> Iterator[str]:
        yield from self.client.iter_lines("/v1/completions", "POST", json=BODY)


@events.quitting.add_listener
def write(**_: object) -> None:
    """Leave the rows."""
    with open(os.environ["ROWS"], "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
