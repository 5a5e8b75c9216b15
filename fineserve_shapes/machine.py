"""Machine: which computer this process runs on."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


@functools.cache
def machine() -> str:
    """Something that tells this machine from others for as long as it runs."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()
