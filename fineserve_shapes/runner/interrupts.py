"""Interrupts: signals of a process, taken between two greenlets instead of in the midst of one.

Python would raise KeyboardInterrupt in whatever runs when the signal comes: a request, say, whose end would then never
be told, or a message that is half handled.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import get_hub


def on_signals(listener: Callable[[int], None]) -> list[Any]:
    """Call the listener, in a greenlet of its own, at every SIGINT and SIGTERM from now on. Keep what comes back.

    SIGINT no longer raises anything by itself. Locust's own handler of SIGTERM, where it has one, comes after.
    """
    return [gevent.signal_handler(number, listener, number) for number in (signal.SIGINT, signal.SIGTERM)]


def interrupt_main(error: BaseException) -> None:
    """Raise in the main greenlet, in whatever it waits for."""
    get_hub().handle_system_error(type(error), error)
