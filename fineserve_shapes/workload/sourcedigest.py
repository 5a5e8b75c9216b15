"""Source digest: which file it was, for the fingerprint of a plan."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

DIGEST_WHOLE_BYTES = 64 << 20
DIGEST_EDGE_BYTES = 1 << 20


def source_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex; above 64 MiB, of its size and its first and last MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= DIGEST_WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(str(size).encode())
        digest.update(file.read(DIGEST_EDGE_BYTES))
        file.seek(-DIGEST_EDGE_BYTES, os.SEEK_END)
        digest.update(file.read(DIGEST_EDGE_BYTES))
    return digest.hexdigest()
