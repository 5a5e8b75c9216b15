"""The Prometheus port: what it takes, and that it answers and goes away."""

from __future__ import annotations

import gevent
import pytest
from gevent import socket
from prometheus_client import CollectorRegistry, Gauge

from fineserve_shapes.errors import InputError
from fineserve_shapes.webui.endpoint import Endpoint


def test_it_answers_on_this_machine_alone_and_goes_away():
    registry = CollectorRegistry()
    Gauge("something", "of which the page tells", registry=registry).set(7)
    endpoint = Endpoint("0", registry)
    address = ("127.0.0.1", int(endpoint.url.split(":")[2].split("/")[0]))
    with gevent.Timeout(10):
        with socket.create_connection(address) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b""
            while piece := client.recv(4096):
                text += piece
        assert b"something 7.0" in text
        endpoint.close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address)


@pytest.mark.parametrize("address", ["", "x", "1:2:x", "70000", "-1"])
def test_an_address_that_is_none_is_refused(address: str):
    with pytest.raises(InputError, match=r"--prometheus-port must be PORT or HOST:PORT"):
        Endpoint(address, CollectorRegistry())


def test_a_port_in_use_is_refused():
    first = Endpoint("0", CollectorRegistry())
    try:
        port = first.url.split(":")[2].split("/")[0]
        with pytest.raises(InputError, match=r"cannot listen on .*\(--prometheus-port\)"):
            Endpoint(port, CollectorRegistry())
    finally:
        first.close()
