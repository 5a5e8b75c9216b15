"""Signals are taken between greenlets, and an interrupt reaches the main one wherever it waits."""

from __future__ import annotations

import os
import signal

import gevent
import pytest

from fineserve_shapes.runner.interrupts import interrupt_main, on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_calls_the_listener_in_a_greenlet_and_raises_nothing(number: int):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    heard: list[tuple[int, bool]] = []
    main = gevent.getcurrent()
    watchers = on_signals(lambda got: heard.append((got, gevent.getcurrent() is main)))
    try:
        os.kill(os.getpid(), number)
        gevent.sleep(0.05)
    finally:
        for watcher in watchers:
            watcher.cancel()
        for each, handler in before.items():
            signal.signal(each, handler)
    assert heard == [(number, False)]


def test_an_interrupt_is_raised_in_what_the_main_greenlet_waits_for():
    gevent.spawn(interrupt_main, KeyboardInterrupt("enough"))
    with pytest.raises(KeyboardInterrupt, match="enough"):
        gevent.sleep(5)
