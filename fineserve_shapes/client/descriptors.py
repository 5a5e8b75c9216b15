"""Descriptors: a request in flight is a socket, and a process may have only so many."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

FEW = 8192


def allow_many() -> int:
    """Raise this process's limit as far as it goes without special rights, and say so where that is not far; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):  # a system has a limit below what it calls the hard one
            pass
    if 0 <= soft < FEW:
        logger.warning("this process may have %d files open, and a request in flight is one: more of them at once end as"
                       " connect_error (ulimit -n)", soft)  # fmt: skip
    return soft
