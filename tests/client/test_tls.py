"""Whom a run trusts: what cannot be used is one line before it begins."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from fineserve_shapes.client.tls import tls_context
from fineserve_shapes.errors import InputError


def refusal(ca_file: Path | None, *, insecure: bool = False) -> str:
    with pytest.raises(InputError) as refused:
        tls_context(None if ca_file is None else str(ca_file), insecure=insecure)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_certificates_are_verified_unless_told_otherwise() -> None:
    context = tls_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = tls_context(insecure=True)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"words", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path = tmp_path / "ca.pem"
        path.write_bytes(content)
        assert refusal(path).startswith(f"{path} holds no certificates in PEM form: ")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL passes over a SSL_CERT_FILE that is not there, and trusts nobody: every certificate would be called bad."""
    path = tmp_path / "none.pem"
    assert refusal(path) == f"cannot read the certificates in {path}: No such file or directory (--ca-file)"
    assert "(--ca-file)" in refusal(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert "No such file or directory (SSL_CERT_FILE in the environment)" in refusal(None)


def test_to_verify_by_a_file_and_not_at_all_is_a_contradiction(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "ca.pem", insecure=True) == "--insecure verifies no certificate: leave out --ca-file, or it"
    )
