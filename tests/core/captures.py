"""The captured answers of real servers (tests/core/wire), as exchanges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WIRE = Path(__file__).parent / "wire"


@dataclass(frozen=True)
class Exchange:
    """One captured request and its answer: the request's line, the status and the body with the chunked framing off."""

    title: str
    request: str
    status: int
    body: bytes


def exchanges(name: str) -> list[Exchange]:
    """All exchanges of one capture file, in order."""
    parts = re.split(rb"^##### ", (WIRE / name).read_bytes().replace(b"\r\n", b"\n"), flags=re.M)
    return [_exchange(part) for part in parts if part.strip() and b"<<<" in part]


def exchange(name: str, title: str) -> Exchange:
    """The first exchange of a capture with this title."""
    return next(found for found in exchanges(name) if found.title == title)


def _exchange(part: bytes) -> Exchange:
    title, request, _recvs, rest = part.split(b"\n", 3)
    head, _, body = rest.partition(b"\n\n")
    status = int(head.split(None, 2)[1])
    if b"transfer-encoding: chunked" in head.lower():
        body = _dechunk(body)
    return Exchange(title.decode(), request.decode().removeprefix(">>> "), status, body)


def _dechunk(framed: bytes) -> bytes:
    body, at = bytearray(), 0
    while True:
        line_end = framed.index(b"\n", at)
        size = int(framed[at:line_end], 16)
        if size == 0:
            return bytes(body)
        body += framed[line_end + 1 : line_end + 1 + size]
        at = line_end + 1 + size + 1
