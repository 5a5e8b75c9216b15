"""Routing: which of several servers a request goes to."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from fineserve_shapes.client.client import Client
from fineserve_shapes.client.connection import Deadlines
from fineserve_shapes.client.preflight import Server
from fineserve_shapes.client.reactor import Reactor
from fineserve_shapes.client.target import Target


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one server. path: of its requests."""

    target: Target
    path: str
    context: ssl.SSLContext | None
    server: Server


class Router:
    """Clients of all servers, and which of them sends a request.

    by_prefix: requests whose prompts begin with the same block go to the same server, whose cache may hold it; those
    that share nothing, and all where it is off, take turns.
    """

    def __init__(self, routes: Sequence[Route], reactor: Reactor, deadlines: Deadlines, *, by_prefix: bool) -> None:
        self._by_prefix = by_prefix
        self._ways = [
            (Client(route.target, reactor, deadlines, route.server.headers, route.context), route.path)
            for route in routes
        ]

    def way(self, position: int, prefix: Sequence[int]) -> tuple[Client, str]:
        """Client and path for the request at this position of its stream. prefix: see `PrefixBlocks.rows`."""
        ways = self._ways
        if len(ways) == 1:
            return ways[0]
        return ways[(prefix[1] if self._by_prefix and prefix else position) % len(ways)]

    def close(self) -> None:
        """Close connections."""
        for client, _ in self._ways:
            client.close()
