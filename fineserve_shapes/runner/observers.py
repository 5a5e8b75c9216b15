"""Observers: all that looks at a run from outside: the LLM tab, Prometheus, OpenTelemetry, servers' metrics, the report."""

from __future__ import annotations

import dataclasses
import logging
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gevent
from prometheus_client import CollectorRegistry

from fineserve_shapes import options
from fineserve_shapes.client.scrape import ServerScrape
from fineserve_shapes.client.target import Endpoints, Target
from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.errors import InputError
from fineserve_shapes.filenames import named
from fineserve_shapes.runner import startform
from fineserve_shapes.runner.conclusion import About, common_facts, models_of
from fineserve_shapes.runner.otel import OpenTelemetry, attributes_of
from fineserve_shapes.runner.planned import Planned
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values
from fineserve_shapes.webui import pages
from fineserve_shapes.webui.endpoint import Endpoint
from fineserve_shapes.webui.feed import Feed
from fineserve_shapes.webui.prometheus import RunCollector

logger = logging.getLogger(__name__)


class Observers:
    """The observers of a driving process. Raises InputError where the Prometheus endpoint cannot listen.

    web_ui: Locust's, None where there is none. options: the parsed command line.
    """

    def __init__(self, web_ui: Any, options: Any) -> None:
        self.feed = Feed()
        self._registry = CollectorRegistry()
        self._registry.register(RunCollector(self.feed))
        self.report_file: Path | None = None  # of the next run, or the one that goes on
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if web_ui is not None:
            startform.install(web_ui)
            pages.install(web_ui, self.feed, self._registry)
        address = Values(options).text("--prometheus-port")
        self._endpoint = None if address is None else Endpoint(address, self._registry)
        self._otel = OpenTelemetry.of(asked=getattr(options, "otel", False))

    def prepare(self, settings: Settings, report_file: Path | None) -> Settings:
        """What a run needs for its report: a request log, even where none was asked for."""
        self.report_file = report_file
        if report_file is None or settings.request_log is not None:
            return settings
        self._discard_scratch()
        self._scratch = tempfile.TemporaryDirectory(prefix="fineserve-")
        return dataclasses.replace(settings, request_log=Path(self._scratch.name) / "{run}.parquet")

    def begin(self, run: Run, planned: Planned, about: About) -> None:
        """A run begins."""

        def now() -> dict[str, Any]:
            facts = common_facts(run)
            error = None if run.failure is None else str(run.failure)
            return {
                "mode": about.mode,
                "host": about.host,
                "simulator": about.simulator,
                "model": facts.get("model"),
                "models": models_of(run),
                "requests": planned.plan.requests,
                "error": error,
                **planned.step.shown(),
            }

        scrapes = server_scrapes(planned.values, planned.streams, about.hosts, run)
        self.feed.begin(run, now, scrapes)
        if self._otel is not None:
            self._otel.begin(
                run, lambda: attributes_of(planned.streams, about.hosts, next(iter(run.facts.values()), {}))
            )
        for scrape in scrapes:
            scrape.start()

    def finish(self, summary: dict[str, Any] | None) -> None:
        """The run is over; its summary gets what the servers said of themselves. None: it never began.

        `server_metrics` of one host: `url`, `failures`, its figures (see `ServerSeries.figures`) and its `series`. Of
        several: `hosts`, the same of each by its URL, of a host that never answered with no samples. How many hosts it is
        goes by what was asked for, not by who answered; there is no `server_metrics` where none did.
        """
        scrapes = self.feed.scrapes
        self.feed.finish()
        if summary is not None and self._scratch is not None:
            summary["request_log"] = {"path": None}  # ours alone, and soon gone
        otel = [] if self._otel is None else [self._otel]
        ends = [*(scrape.stop for scrape in scrapes), *(exporting.finish for exporting in otel)]
        gevent.joinall([gevent.spawn(end) for end in ends])  # at once: a last fetch may take seconds
        if summary is None or not any(len(scrape.series) for scrape in scrapes):
            return
        found = [
            {"failures": scrape.failures, **scrape.series.figures(), "series": scrape.series.as_dict()}
            for scrape in scrapes
        ]
        urls = [scrape.url for scrape in scrapes]
        one = len(found) == 1
        summary["server_metrics"] = (
            {"url": urls[0], **found[0]} if one else {"hosts": dict(zip(urls, found, strict=True))}
        )

    def report(self, run: Run, summary: dict[str, Any]) -> None:
        """Write the report where one was asked for: the request log has been closed."""
        if self.report_file is not None and run.log is not None:
            from fineserve_shapes.htmlreport.page import write_report  # a tenth of a second that others need not wait
            from fineserve_shapes.htmlreport.source import RunData

            out, log = named(self.report_file, run.id), run.log.log.path
            itl = {name: stream.totals.latencies["itl"] for name, stream in run.tally.streams.items()}
            try:
                gevent.get_hub().threadpool.apply(lambda: write_report([RunData.read(log, summary, itl)], out))
            except (OSError, InputError) as error:
                logger.error("cannot write the report %s: %s (--report)", out, error)
            except Exception:  # the run is over and its figures are written: they do not fall with their picture
                logger.exception("making the report %s failed", out)
            else:
                logger.info("the report is in %s", out)
        self._discard_scratch()

    def close(self) -> None:
        """The process ends."""
        if self._endpoint is not None:
            self._endpoint.close()
        if self._otel is not None:
            self._otel.close()
        self._discard_scratch()

    def _discard_scratch(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None


def server_scrapes(
    values: Values, streams: Sequence[Stream], hosts: Sequence[str | None], run: Run
) -> list[ServerScrape]:
    """The scrapes that the options ask for: off, a URL, or by itself of each host where a stream takes it for vLLM.

    hosts: of each stream. A host that several streams share is scraped once.
    """
    asked = values.text("--scrape-server-metrics") or "auto"
    if asked == "off":
        return []
    if asked != "auto":
        target = Target(asked, "--scrape-server-metrics takes auto, off or a URL")
        path = (target.path or "/metrics") + (f"?{target.query}" if target.query else "")
        return [ServerScrape(target, path, lambda: run.now_s, insist=True, context=_context(target, values))]
    found: dict[str, ServerScrape] = {}
    for stream, several in zip(streams, hosts, strict=True):
        for host in options.hosts(several) if stream.values.text("--backend") == "vllm" else ():
            target = Target(host)
            path = Endpoints(target, stream.values.text("--endpoint")).page("/metrics")
            context = _context(target, stream.values)
            scrape = ServerScrape(target, path, lambda: run.now_s, insist=False, context=context)
            found.setdefault(scrape.url, scrape)
    return list(found.values())


def _context(target: Target, values: Values) -> ssl.SSLContext | None:
    return options.tls(values) if target.tls else None
