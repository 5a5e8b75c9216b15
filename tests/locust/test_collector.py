"""Locust's --otel: the run's histograms arrive at a collector, from one process for all workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from runs import ROOT, cluster, outcomes, summary_of

from fineserve_shapes.simulator.process import SimulatorProcess

MIX = ROOT / "locustfiles" / "mix.py"
STREAMS = """
[defaults]
kind = "poisson"
input_length = 30
output_length = 6
cv = 0

[streams.ours]
request_rate = 20
num_prompts = 20

[streams.theirs]
request_rate = 10
num_prompts = 10
backend = "openai"
prompt_form = "text"
"""
Found = dict[tuple[str, tuple[tuple[str, object], ...]], HistogramDataPoint]


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportMetricsServiceRequest]]]:
    """Takes OTLP over HTTP: its URL, and what it has received."""
    received: list[ExportMetricsServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/metrics":
                received.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def newest(received: list[ExportMetricsServiceRequest]) -> Found:
    """The last points of our own histograms, by name and attributes."""
    found: Found = {}
    for request in received:
        for scope in (scope for resource in request.resource_metrics for scope in resource.scope_metrics):
            for metric in scope.metrics if scope.scope.name == "fineserve_shapes" else ():
                for point in metric.histogram.data_points:
                    values = {one.key: one.value.string_value or one.value.int_value for one in point.attributes}
                    found[metric.name, tuple(sorted(values.items()))] = point
    return found


def test_a_collector_gets_the_mix_of_two_workers_by_stream(tmp_path: Path):
    (tmp_path / "mix.toml").write_text(STREAMS)
    out = tmp_path / "out.json"
    with collector() as (url, received), SimulatorProcess(ttft_ms=20, itl_ms=5) as simulator:
        otel = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none",
                "OTEL_METRIC_EXPORT_INTERVAL": "500"}  # fmt: skip
        with cluster(tmp_path, **otel) as locust:
            master = locust.master(
                "--headless", "--expect-workers", 2, "--otel", "--host", simulator.url, "--mix", tmp_path / "mix.toml",
                "--output-file", out, file=MIX,
            )  # fmt: skip
            for _ in range(2):
                locust.worker()
            done = locust.wait(master)
    assert done.code == 0, done.output
    assert outcomes(summary_of(out)) == {"ok": 30}
    host, port = simulator.url.removeprefix("http://").split(":")
    expected = {}
    for name, count, backend in (("ours", 20, "vllm"), ("theirs", 10, "openai")):
        own = {
            "gen_ai.operation.name": "text_completion", "gen_ai.provider.name": backend,
            "gen_ai.request.model": summary_of(out)["model"], "server.address": host, "server.port": int(port),
            "fineserve.stream": name,
        }  # fmt: skip
        for metric in ("gen_ai.client.operation.duration", "gen_ai.server.time_to_first_token",
                       "gen_ai.server.time_per_output_token"):  # fmt: skip
            expected[metric, tuple(sorted(own.items()))] = count
        for kind in ("input", "output"):
            with_kind = own | {"gen_ai.token.type": kind}
            expected["gen_ai.client.token.usage", tuple(sorted(with_kind.items()))] = count
    found = newest(received)
    assert {key: point.count for key, point in found.items()} == expected
    for (metric, attributes), point in found.items():
        if metric == "gen_ai.server.time_to_first_token":
            assert point.min >= 0.02
        if dict(attributes).get("gen_ai.token.type") == "output":
            assert point.sum == 6 * point.count
    assert len(received) > 1, "it was not told while the run went on"
