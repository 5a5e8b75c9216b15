"""Server scrape: the server's own /metrics, fetched while a run goes on.

It never disturbs the run: a failure is logged once.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import time
from collections.abc import Callable

import gevent

from fineserve_shapes.client.oneshot import oneshot
from fineserve_shapes.client.target import Target
from fineserve_shapes.measure.serverseries import ServerSeries, read_metrics
from fineserve_shapes.text import shorten

logger = logging.getLogger(__name__)

EVERY_S = 1.0
TIMEOUT_S = 2.0
MAX_BYTES = 2**22
TRIES = 3
"""How many failed fetches end the scrape of a server that was not named on the command line."""


class ServerScrape:
    """Fetches `/metrics` once a second into a series.

    target: the server. path: of the page. now_s: seconds of the run. insist: go on asking one that does not answer.
    context: of TLS.
    status: "waiting", "ok", or why there is nothing.
    """

    def __init__(
        self,
        target: Target,
        path: str,
        now_s: Callable[[], float],
        *,
        insist: bool,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.series = ServerSeries()
        self.url = target.origin + path.partition("?")[0]
        self.status = "waiting"
        self.failures = 0
        self._target, self._path, self._now_s, self._insist = target, path, now_s, insist
        self._context = context
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin to fetch."""
        self._greenlet = gevent.spawn(self._scrape_regularly)

    def stop(self) -> None:
        """Fetch a last time, since counters have grown since the sample before, and then no more."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
            if self.status == "ok":
                self._scrape()

    def _scrape_regularly(self) -> None:
        next_s = time.perf_counter()
        while self._scrape():
            next_s = max(next_s + EVERY_S, time.perf_counter())
            gevent.sleep(next_s - time.perf_counter())

    def _scrape(self) -> bool:
        """Fetch once; whether to go on."""
        at_s = self._now_s()
        try:
            sample = read_metrics(self._fetch())
            if not sample:
                raise ValueError("none of vLLM's metrics are on it")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures += 1
            status = shorten(f"{type(error).__name__}: {error}")
            if self.status == "ok":
                logger.warning("%s no longer answers: %s", self.url, status)
            self.status = status
            if len(self.series) or self._insist or self.failures < TRIES:
                return True
            logger.info("no metrics of the server itself: %s: %s (--scrape-server-metrics)", self.url, status)
            return False
        self.status = "ok"
        if at_s > -1.0:  # the last second before the start is worth having: it is what counters grow from
            self.series.add(at_s, sample)
        return True

    def _fetch(self) -> bytes:
        headers = {"Accept": "text/plain"}
        with oneshot(self._target, self._context, self._path, headers=headers, timeout_s=TIMEOUT_S) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            return response.read(MAX_BYTES)
