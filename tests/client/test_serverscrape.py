"""The scrape of the server: figures where there are some, patience or not where there are none, and never a crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gevent
import pytest

from fineserve_shapes.client import scrape as serverscrape
from fineserve_shapes.client.scrape import TRIES, ServerScrape
from fineserve_shapes.client.target import Target


class Server:
    """Answers, in threads of its own, with what the test says."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"vllm:num_requests_running 3\n"
        self.asked = 0
        self.silent = False
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told.asked += 1
                if told.silent:
                    time.sleep(0.5)
                    return
                self.send_response(told.status)
                self.end_headers()
                self.wfile.write(told.body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def target(self) -> Target:
        return Target(f"http://127.0.0.1:{self._server.server_port}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(serverscrape, "EVERY_S", 0.02)
    monkeypatch.setattr(serverscrape, "TIMEOUT_S", 0.2)
    found = Server()
    yield found
    found.close()


def wait(condition: object) -> None:
    with gevent.Timeout(10):
        while not condition():  # type: ignore[operator]
            gevent.sleep(0.01)


def scrape_of(server: Server, *, insist: bool = False) -> ServerScrape:
    scrape = ServerScrape(server.target, "/metrics", lambda: server.asked, insist=insist)
    scrape.start()
    return scrape


def test_samples_come_in_until_it_is_stopped(server: Server):
    scrape = scrape_of(server)
    wait(lambda: len(scrape.series) >= 3)
    server.body = b"vllm:num_requests_running 4\n"
    scrape.stop()
    assert scrape.status == "ok"
    assert scrape.series.as_dict()["running"][0] == 3.0
    assert scrape.series.as_dict()["running"][-1] == 4.0  # the last word is that of the end
    asked = server.asked
    gevent.sleep(0.1)
    assert server.asked == asked


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b""), (200, b"<html>"), (200, b"vllm:num_requests_running{"), (500, b"\xff")],
)
def test_a_server_without_metrics_is_asked_a_few_times(server: Server, status: int, body: bytes):
    server.status, server.body = status, body
    scrape = scrape_of(server)
    wait(lambda: server.asked == TRIES)
    gevent.sleep(0.1)
    assert server.asked == TRIES
    assert len(scrape.series) == 0
    assert scrape.status != "ok"
    scrape.stop()


def test_a_page_that_was_asked_for_is_waited_for(server: Server):
    server.status = 503
    scrape = scrape_of(server, insist=True)
    wait(lambda: server.asked > 2 * TRIES)
    server.status = 200
    wait(lambda: len(scrape.series))
    server.silent = True  # and one that falls silent in the middle of a run is asked again
    wait(lambda: scrape.status.startswith("TimeoutError"))
    server.silent = False
    wait(lambda: scrape.status == "ok")
    scrape.stop()


def test_nobody_there_is_no_crash():
    scrape = ServerScrape(Target("http://127.0.0.1:9"), "/metrics", lambda: 0.0, insist=False)
    assert scrape._scrape()
    assert "refused" in scrape.status.lower()
