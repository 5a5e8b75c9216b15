"""Endpoint: Prometheus' page on a port of its own, for headless runs and for a Prometheus that cannot log in."""

from __future__ import annotations

import logging
import socket
from typing import Any

from gevent.pywsgi import WSGIServer
from prometheus_client import CollectorRegistry, make_wsgi_app

from fineserve_shapes.errors import InputError

logger = logging.getLogger(__name__)


class Endpoint:
    """`/metrics` without a login.

    address: `PORT` (then for this machine alone) or `HOST:PORT`. Raises InputError where that cannot be.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        if not port.isdecimal() or not int(port) < 2**16:
            raise InputError(f"--prometheus-port must be PORT or HOST:PORT, got {address!r}")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, int(port)), family=family)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise InputError(f"cannot listen on {address}: {why} (--prometheus-port)") from None
        listener.setblocking(False)
        app: Any = make_wsgi_app(registry)
        self._server = WSGIServer(listener, app, log=None, error_log=logger)
        self._server.start()
        name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{listener.getsockname()[1]}/metrics"
        logger.info("Prometheus finds the figures at %s", self.url)

    def close(self) -> None:
        """Stop listening."""
        self._server.stop(timeout=1)
