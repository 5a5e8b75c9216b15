"""Certificates that nobody vouches for."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for localhost, and contexts that use it."""

    path: str
    key_path: str

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key_path)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.path)


def make_certificate(folder: Path) -> Certificate:
    """Make one with the `openssl` command; FileNotFoundError where there is none."""
    found = Certificate(str(folder / "certificate.pem"), str(folder / "key.pem"))
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", names, "-keyout", found.key_path, "-out", found.path),
        ],
        check=True,
        capture_output=True,
        timeout=20,
    )
    return found
