"""What OpenTelemetry's exporters are handed, and when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from measured import measurements, record

from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.runner.otel import STREAM, OpenTelemetry, attributes_of
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values

CONVENTIONS = {
    "gen_ai.client.operation.duration": "s", "gen_ai.client.token.usage": "{token}",
    "gen_ai.server.time_to_first_token": "s", "gen_ai.server.time_per_output_token": "s",
}  # fmt: skip


class FakeExporter:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.exported: list[Any] = []
        self.closed = False

    def export(self, data: Any, timeout_millis: float) -> None:
        self.exported.append(data)

    def shutdown(self) -> None:
        self.closed = True


class BrokenExporter(FakeExporter):
    """Never hands anything on."""

    def export(self, data: Any, timeout_millis: float) -> None:
        raise OSError("no collector")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without OpenTelemetry's variables."""
    for name in ("OTEL_SDK_DISABLED", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL",
                 "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_METRIC_EXPORT_INTERVAL", "OTEL_SERVICE_NAME",
                 "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def a_run() -> Run:
    return Run([], 0, Settings(), local=True)


def points_of(data: Any) -> list[tuple[str, dict[str, Any], int, int]]:
    """Each point's metric, attributes, count and start."""
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    return [
        (metric.name, dict(point.attributes), point.count, point.start_time_unix_nano)
        for metric in scope.metrics
        for point in metric.data.data_points
    ]


def counts_of(data: Any) -> set[tuple[str, int]]:
    return {(name, count) for name, _, count, _ in points_of(data)}


def test_a_run_is_exported_when_it_is_over_by_the_conventions_names_and_units():
    exporter, run = FakeExporter(), a_run()
    otel = OpenTelemetry([exporter], interval_s=60.0)
    otel.begin(run, lambda: {0: {"gen_ai.request.model": "m"}})
    run.tally.add(measurements([record(0), record(1), record(2, "timeout")]))
    otel.finish()
    (data,) = exporter.exported
    units = {metric.name: metric.unit for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert units == CONVENTIONS
    model = {"gen_ai.request.model": "m"}
    assert all(model.items() <= own.items() for _, own, _, _ in points_of(data))
    assert {
        (name, own.get("error.type"), own.get("gen_ai.token.type"), count) for name, own, count, _ in points_of(data)
    } == {
        ("gen_ai.client.operation.duration", None, None, 2),
        ("gen_ai.client.operation.duration", "timeout", None, 1),
        ("gen_ai.client.token.usage", None, "input", 2),
        ("gen_ai.client.token.usage", None, "output", 2),
        ("gen_ai.server.time_per_output_token", None, None, 2),
        ("gen_ai.server.time_to_first_token", None, None, 2),
    }
    otel.close()
    assert exporter.closed


@pytest.mark.parametrize("delta", [False, True])
def test_an_export_has_all_of_the_run_or_with_delta_what_is_new(delta: bool):
    exporter, run = FakeExporter(), a_run()
    otel = OpenTelemetry([exporter], interval_s=0.05, delta=delta)
    otel.begin(run, dict)
    for number in range(2):
        run.tally.add(measurements([record(number)]))
        run.begun.wait(0.12)  # two exports
    otel.finish()
    durations = [(count, start) for data in exporter.exported for name, _, count, start in points_of(data)
                 if name == "gen_ai.client.operation.duration"]  # fmt: skip
    if delta:
        assert [count for count, _ in durations] == [1, 1]
        assert durations[0][1] < durations[1][1]
    else:
        assert durations[0][0] == 1
        assert durations[-1][0] == 2
        assert len({start for _, start in durations}) == 1


def test_the_next_run_starts_from_nothing():
    exporter = FakeExporter()
    otel = OpenTelemetry([exporter], interval_s=60.0)
    for _ in range(2):
        run = a_run()
        otel.begin(run, dict)
        run.tally.add(measurements([record(0)]))
        otel.finish()
    first, second = exporter.exported
    assert counts_of(first) == counts_of(second) == {(name, 1) for name in CONVENTIONS}


def test_a_run_without_answers_exports_nothing():
    exporter = FakeExporter()
    otel = OpenTelemetry([exporter], interval_s=60.0)
    otel.begin(a_run(), dict)
    otel.finish()
    assert exporter.exported == []


def test_an_exporter_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture):
    exporter, run = FakeExporter(), a_run()
    otel = OpenTelemetry([BrokenExporter(), exporter], interval_s=60.0)
    otel.begin(run, dict)
    run.tally.add(measurements([record(0)]))
    otel.finish()
    assert len(exporter.exported) == 1
    assert "exporting OpenTelemetry metrics failed" in caplog.text


def test_a_stream_is_described_by_what_is_known_of_it():
    """In a mix by its name too; several servers are named in no attribute, nor is a model before a worker knows it."""
    values = Values(None).over({"backend": "vllm"})
    streams = (
        Stream("chats", 0, values=values, mixed=True),
        Stream("agents", 1, values=values.over({"backend": "openai"}), mixed=True),
    )
    hosts = ("http://a:8000/v1", "https://b,https://c")
    common = {"gen_ai.provider.name": "vllm", "server.address": "a", "server.port": 8000, STREAM: "chats"}
    assert attributes_of(streams, hosts, {})[0] == common | {"gen_ai.operation.name": "other"}
    facts = {
        "streams": {"chats": {"model": "m", "prompt_form": "chat"}, "agents": {"model": "n", "prompt_form": "text"}}
    }
    assert attributes_of(streams, hosts, facts) == {
        0: common | {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"},
        1: {"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "openai", "gen_ai.request.model": "n",
            STREAM: "agents"},
    }  # fmt: skip


def test_a_run_that_is_no_mix_names_no_stream_and_a_client_of_ones_own_may_have_no_url():
    streams = (Stream("replay"),)
    assert attributes_of(streams, ("https://h",), {"model": "m", "prompt_form": "token_ids"}) == {
        0: {"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "other", "gen_ai.request.model": "m",
            "server.address": "h", "server.port": 443},
    }  # fmt: skip
    for host in (None, "db://somewhere"):
        assert attributes_of(streams, (host,), {}) == {
            0: {"gen_ai.operation.name": "other", "gen_ai.provider.name": "other"}
        }


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"OTEL_METRICS_EXPORTER": "none"}, None),
        ({"OTEL_METRICS_EXPORTER": "console"}, ["ConsoleMetricExporter"]),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["OTLPMetricExporter"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}, None),
        ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http", "OTEL_METRICS_EXPORTER": "otlp,console"},
         ["OTLPMetricExporter", "ConsoleMetricExporter"]),
    ],
)  # fmt: skip
def test_the_exporters_are_those_of_the_usual_variables(
    given: dict[str, str], names: list[str] | None, variables: pytest.MonkeyPatch
):
    for name, value in given.items():
        variables.setenv(name, value)
    assert OpenTelemetry.of(asked=False) is None
    otel = OpenTelemetry.of(asked=True)
    assert (None if otel is None else [type(one).__name__ for one in otel._exporters]) == names
    if otel is not None:
        otel.close()


def test_without_the_flag_nothing_of_opentelemetry_is_imported():
    code = (
        "import sys, argparse, fineserve_shapes.runner.observers as observers\n"
        "observers.Observers(None, argparse.Namespace(otel=False))\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'opentelemetry'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
