"""TLS: which certificates a run trusts."""

from __future__ import annotations

import os
import ssl

from fineserve_shapes.errors import InputError


def tls_context(ca_file: str | None = None, *, insecure: bool = False) -> ssl.SSLContext:
    """How certificates are verified: against the system's authorities, or the file's in their place, or not at all.

    The system's are OpenSSL's, which SSL_CERT_FILE replaces. Raises InputError where a file cannot be used.
    """
    if insecure:
        if ca_file is not None:
            raise InputError("--insecure verifies no certificate: leave out --ca-file, or it")
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file is None and (of_system := os.environ.get("SSL_CERT_FILE")):
        _readable(
            of_system, "SSL_CERT_FILE in the environment"
        )  # OpenSSL would ignore it, and then trust no certificate
    if ca_file is not None:
        _readable(ca_file, "--ca-file")
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise InputError(f"{ca_file} holds no certificates in PEM form: {reason} (--ca-file)") from None


def _readable(path: str, where: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"cannot read the certificates in {path}: {error.strerror} ({where})") from None
