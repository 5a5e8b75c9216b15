"""A client plain enough to be trusted: http.client and raw sockets."""

import http.client
import json
import socket
from typing import Any

from fineserve_shapes.simulator.process import SimulatorProcess


class Client:
    """Requests to one simulator, a connection each unless told otherwise."""

    def __init__(self, simulator: SimulatorProcess) -> None:
        self.simulator = simulator

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.simulator.port, timeout=10)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = self.connection()
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body without HTTP framing."""
        connection = self.connection()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, {name.lower(): value for name, value in response.headers.items()}, answer

    def events(self, path: str, body: dict[str, Any], **headers: str) -> list[Any]:
        """The payloads of a stream's events, as JSON but for `[DONE]`."""
        status, fields, answer = self.post(path, body | {"stream": True}, **headers)
        assert status == 200
        assert fields["content-type"] == "text/event-stream; charset=utf-8"
        return payloads(answer)

    def raw(self, path: str, body: dict[str, Any], request_id: str, *, version: str = "1.1") -> socket.socket:
        """A socket on which the request has been sent."""
        data = json.dumps(body).encode()
        sock = socket.create_connection(("127.0.0.1", self.simulator.port), timeout=10)
        head = f"POST {path} HTTP/{version}\r\nhost: x\r\nx-request-id: {request_id}\r\ncontent-length: {len(data)}\r\n\r\n"
        sock.sendall(head.encode() + data)
        return sock


def payloads(answer: bytes) -> list[Any]:
    """What stands behind `data: `, as JSON but for `[DONE]`."""
    events = [event.removeprefix(b"data: ") for event in answer.split(b"\n\n") if event]
    return [event.decode() if event == b"[DONE]" else json.loads(event) for event in events]


def read_all(sock: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data
