"""Mailbox: messages of other processes, none of which may end this one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fineserve_shapes.leases.messages import MessageError
from fineserve_shapes.text import shorten

logger = logging.getLogger(__name__)

MAX_WARNINGS = 20
_MAX_NAME = 100


class Mailbox:
    """Takes messages for listeners: one that cannot be read is counted and dropped.

    on_dropped: called for each of them. count: how many there have been.
    """

    def __init__(self, on_dropped: Callable[[], None] = lambda: None) -> None:
        self.count = 0
        self._on_dropped = on_dropped

    def listener(self, listener: Callable[[Any], None]) -> Callable[..., None]:
        """For Locust: a listener that gets a message's data."""
        return lambda msg, **_: self._take(msg, lambda: listener(msg.data))

    def listener_from(self, listener: Callable[[str, Any], None]) -> Callable[..., None]:
        """The same for one that wants to know the sender."""
        return lambda msg, **_: self._take(msg, lambda: listener(msg.node_id, msg.data))

    def _take(self, msg: Any, take: Callable[[], None]) -> None:
        try:
            take()
        except Exception as error:
            self.count += 1
            self._on_dropped()
            if self.count > MAX_WARNINGS:  # a stream of bad messages must not fill the disk
                return
            known = isinstance(error, MessageError)
            logger.warning("a message %s from %s was dropped: %s", msg.type, shorten(str(msg.node_id), _MAX_NAME),
                           shorten(f"{'' if known else type(error).__name__ + ': '}{error}"),
                           exc_info=None if known else error)  # fmt: skip
            if self.count == MAX_WARNINGS:
                logger.warning("further bad messages are counted and not logged")
