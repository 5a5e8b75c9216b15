"""The web UI of a running Locust, over HTTP."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs import REPLAY, Cluster, free_port


class Page:
    """One web UI."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return response.read().decode()

    def post(self, path: str, **form: object) -> dict[str, Any]:
        data = urllib.parse.urlencode({name: str(value) for name, value in form.items()}).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=60) as response:
            found: dict[str, Any] = json.loads(response.read())
            return found

    def post_text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, b"", timeout=60) as response:
            return response.read().decode()

    def swarm(self, **form: object) -> dict[str, Any]:
        return self.post("/swarm", user_count=1, spawn_rate=1, **form)

    def rows(self) -> dict[tuple[str, str], int]:
        stats = json.loads(self.get("/stats/requests"))["stats"]
        return {(row["method"] or "", row["name"]): row["num_requests"] for row in stats}


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def open_page(locust: Cluster, *arguments: object, workers: int = 0, file: Path = REPLAY, base: str = "/") -> Page:
    port = free_port()
    options = ("--web-host", "127.0.0.1", "--web-port", port, *arguments)
    process = locust.master(*options, file=file) if workers else locust.start(*options, file=file)
    locust.await_output(process, "Starting web interface")
    page = Page(port)
    until(lambda: _answers(page, base))
    if not workers:
        return page
    for _ in range(workers):
        locust.worker()
    until(lambda: len(json.loads(page.get("/stats/requests")).get("workers", [])) == workers)
    return page


def _answers(page: Page, base: str) -> bool:
    try:
        return bool(page.get(base))
    except OSError:
        return False
