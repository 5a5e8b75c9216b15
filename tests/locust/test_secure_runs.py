"""A run over TLS: whom it trusts, and that it says so."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from certificates import Certificate
from runs import outcomes, run_locust, summary_of, write_trace

ANSWER = b'{"choices":[{"index":0,"text":"a","finish_reason":"length"}],"usage":{"completion_tokens":5}}'
PAGES = {
    "/v1beta/openai/models?team=a": json.dumps({"data": [{"id": "tiny"}]}).encode(),
    "/metrics": b"vllm:num_requests_running 3\n",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._say(PAGES.get(self.path))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(ANSWER if self.path == "/v1beta/openai/completions?team=a" else None)

    def log_message(self, *_: object) -> None: ...

    def _say(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")


@pytest.fixture(scope="module")
def url(certificate: Certificate) -> Iterator[str]:
    """An API of another base, behind a certificate of its own, whose list of models leaves a doubt."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = certificate.server().wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://localhost:{server.server_port}/v1beta/openai?team=a"
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize("insecure", [False, True])
def test_every_connection_of_a_run_trusts_alike(tmp_path: Path, certificate: Certificate, url: str, insecure: bool):
    """The list of models, the one real request before the run, the run itself, and the scrape of /metrics."""
    trace, out = write_trace(tmp_path / "trace.csv", [0.05 * i for i in range(30)]), tmp_path / "out.json"
    trust = ["--insecure"] if insecure else ["--ca-file", certificate.path]
    done = run_locust(tmp_path, "--host", url, "--request-trace-csv", trace, "--output-file", out, *trust)
    assert done.code == 0, done.output
    summary = summary_of(out)
    assert outcomes(summary) == {"ok": 30}
    assert summary["tls_verified"] is not insecure
    assert summary["server_metrics"]["failures"] == 0
    assert ("is not verified (--insecure)" in done.output) == insecure
    assert ("certificate was not verified (--insecure)" in done.output) == insecure
    assert "for one token of tiny before the run" in done.output


def test_a_certificate_that_nobody_vouches_for_is_one_line(tmp_path: Path, url: str):
    done = run_locust(tmp_path, "--host", url, "-t", "2s")
    assert done.code == 2, done.output
    assert "its certificate is not valid: self-signed certificate (--ca-file FILE to trust it" in done.output
    assert "Traceback" not in done.output
