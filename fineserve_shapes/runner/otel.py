"""OpenTelemetry: a run's histograms by the conventions for generative AI, sent where Locust's `--otel` sends its own.

The SDK would take some tens of microseconds for each value that it is handed, several for each request. So batches of
records are counted as they come (`measure.genai`), in the one process that has those of all workers, and its exporters get
the counts ready made. Nothing of OpenTelemetry is imported where it was not asked for.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

import gevent
from gevent.event import Event

from fineserve_shapes import __version__, options
from fineserve_shapes.client.target import Target
from fineserve_shapes.engine.run import Run
from fineserve_shapes.errors import InputError
from fineserve_shapes.leases.messages import by_stream
from fineserve_shapes.measure.genai import METRICS, GenAiFigures, GenAiPoint, PointKey
from fineserve_shapes.streams import Stream

logger = logging.getLogger(__name__)

SCOPE = "fineserve_shapes"
STREAM = "fineserve.stream"
"""The attribute that has the stream's name, in a mix; all others are the conventions'."""

_OTHER = "other"  # what a user class of one's own does is not known
_EXPORTERS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http", "http": "otlp_proto_http"}
_INTERVAL_MS = 60_000.0  # both the SDK's
_TIMEOUT_MS = 30_000.0


class OpenTelemetry:
    """Exports the figures of a run, at the SDK's interval and when it is over.

    exporters: metric exporters of the SDK. interval_s: between two exports. delta: whether each export has what came since
    the last one, rather than all of the run so far.
    """

    def __init__(self, exporters: list[Any], interval_s: float, *, delta: bool = False) -> None:
        from opentelemetry.sdk.resources import Resource

        self._exporters = exporters
        self._interval_s = interval_s
        self._delta = delta
        self._resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "locust")})
        self._over = Event()
        self._exporting: gevent.Greenlet | None = None

    @classmethod
    def of(cls, *, asked: bool) -> OpenTelemetry | None:
        """By the usual OTEL_... variables, read as Locust reads them; None where nothing is to be exported.

        asked: `--otel`. Locust has said what it misses.
        """
        if not asked or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return None
        exporters = list(_exporters())
        if not exporters:
            return None
        delta = _variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative") != "cumulative"
        return cls(exporters, _milliseconds("OTEL_METRIC_EXPORT_INTERVAL", _INTERVAL_MS) / 1e3, delta=delta)

    def begin(self, run: Run, attributes: Callable[[], Mapping[int, Mapping[str, Any]]]) -> None:
        """A run begins. attributes: of each stream by its number, as far as they are known by then."""
        figures = GenAiFigures(run.settings.warmup_s)
        run.tally.followers.append(figures)
        self._over = Event()
        self._exporting = gevent.spawn(self._export_regularly, figures, attributes, self._over)

    def finish(self) -> None:
        """The run is over. Blocks until its last figures have left, or an exporter has given up."""
        if self._exporting is not None:
            self._over.set()
            self._exporting.join()
            self._exporting = None

    def close(self) -> None:
        """The process ends."""
        for exporter in self._exporters:
            exporter.shutdown()

    def _export_regularly(
        self, figures: GenAiFigures, attributes: Callable[[], Mapping[int, Mapping[str, Any]]], over: Event
    ) -> None:
        since_ns, last = time.time_ns(), False
        while not last:
            last = over.wait(self._interval_s)
            now_ns = time.time_ns()
            points = figures.take() if self._delta else figures.points()
            if points:
                self._export(self._data(points, attributes(), since_ns, now_ns))
            if self._delta:
                since_ns = now_ns

    def _export(self, data: Any) -> None:
        """In threads: an exporter may hold up whoever calls it."""
        pool = gevent.get_hub().threadpool
        for exporter in self._exporters:
            try:
                pool.apply(exporter.export, (data,), {"timeout_millis": _TIMEOUT_MS})
            except Exception:  # an exporter's fault is no fault of the run
                logger.exception("exporting OpenTelemetry metrics failed")

    def _data(
        self,
        points: Mapping[PointKey, GenAiPoint],
        attributes: Mapping[int, Mapping[str, Any]],
        since_ns: int,
        now_ns: int,
    ) -> Any:
        from opentelemetry.sdk.metrics.export import (
            AggregationTemporality,
            Histogram,
            HistogramDataPoint,
            Metric,
            MetricsData,
            ResourceMetrics,
            ScopeMetrics,
        )
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        temporality = AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE
        found: dict[str, list[Any]] = {metric.name: [] for metric in METRICS}
        for key, point in points.items():
            own = {} if key.attribute is None else dict([key.attribute])
            found[key.metric.name].append(
                HistogramDataPoint(
                    attributes={**attributes.get(key.stream, {}), **own},
                    start_time_unix_nano=since_ns,
                    time_unix_nano=now_ns,
                    count=int(point.counts.sum()),
                    sum=point.total,
                    bucket_counts=point.counts.tolist(),
                    explicit_bounds=point.bounds,
                    min=point.least,
                    max=point.most,
                )
            )
        metrics = [
            Metric(metric.name, metric.what, metric.unit, Histogram(found[metric.name], temporality))
            for metric in METRICS
            if found[metric.name]
        ]
        scope = ScopeMetrics(InstrumentationScope(SCOPE, __version__), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def attributes_of(
    streams: tuple[Stream, ...], hosts: tuple[str | None, ...], facts: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """The conventions' attributes of each stream by its number.

    hosts: of each stream; where that is several servers, none is named. facts: what a worker said of them when it was
    ready, nothing before.
    """
    told = by_stream(facts)
    found: dict[int, dict[str, Any]] = {}
    for stream, several in zip(streams, hosts, strict=True):
        of_stream = told.get(stream.name if stream.mixed else "", {})
        form, model = of_stream.get("prompt_form"), of_stream.get("model")
        operation = _OTHER if form is None else "chat" if form == "chat" else "text_completion"
        own: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": stream.values.text("--backend") or _OTHER,
        }
        if model is not None:
            own["gen_ai.request.model"] = model
        own |= _server(several)
        if stream.mixed:
            own[STREAM] = stream.name
        found[stream.number] = own
    return found


def _server(hosts: str | None) -> dict[str, Any]:
    servers = options.hosts(hosts)
    if len(servers) != 1:
        return {}
    try:
        target = Target(servers[0])
    except InputError:  # a user class of one's own may go by other addresses
        return {}
    return {"server.address": target.host, "server.port": target.port}


def _exporters() -> Iterator[Any]:
    """Those that the SDK knows by the names in the variables."""
    protocol = _variable("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", _variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"))
    for asked in dict.fromkeys(_variable("OTEL_METRICS_EXPORTER", "otlp").split(",")):
        name = _EXPORTERS.get(protocol, "") if asked.strip() == "otlp" else asked.strip()
        for entry in entry_points(group="opentelemetry_metrics_exporter", name=name):
            yield entry.load()()


def _variable(name: str, default: str) -> str:
    return os.environ.get(name, "").strip().lower() or default


def _milliseconds(name: str, default: float) -> float:
    try:
        found = float(os.environ.get(name, default))
    except ValueError:  # the SDK says so, and takes its default
        return default
    return found if found > 0 else default
