"""The mailbox: a message that cannot be taken is counted and dropped, and no message ends the process."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from fineserve_shapes.leases.messages import MessageError
from fineserve_shapes.runner.mailbox import MAX_WARNINGS, Mailbox


def message(data: Any = None, sender: str = "w") -> SimpleNamespace:
    return SimpleNamespace(type="fineserve.x", node_id=sender, data=data)


def failing(error: Exception):
    def take(*_: Any) -> None:
        raise error

    return take


def test_listeners_get_the_data_and_the_sender_where_they_ask_for_it():
    got: list[Any] = []
    mailbox = Mailbox()
    mailbox.listener(got.append)(environment=None, msg=message({"a": 1}))
    mailbox.listener_from(lambda *both: got.append(both))(environment=None, msg=message({"b": 2}, "w7"))
    assert (got, mailbox.count) == ([{"a": 1}, ("w7", {"b": 2})], 0)


@pytest.mark.parametrize("error", [MessageError("no run"), KeyError("run"), RecursionError(), MemoryError()])
def test_whatever_a_listener_raises_is_one_more_that_was_dropped(error: Exception):
    dropped: list[int] = []
    mailbox = Mailbox(lambda: dropped.append(1))
    for _ in range(3):
        mailbox.listener(failing(error))(environment=None, msg=message())
    assert (mailbox.count, len(dropped)) == (3, 3)


def test_a_known_complaint_has_no_traceback_and_a_surprise_has_one(caplog: pytest.LogCaptureFixture):
    mailbox = Mailbox()
    mailbox.listener(failing(MessageError("no run")))(msg=message())
    mailbox.listener(failing(KeyError("run")))(msg=message())
    known, surprise = caplog.records
    assert (known.getMessage(), known.exc_info) == ("a message fineserve.x from w was dropped: no run", None)
    assert surprise.getMessage() == "a message fineserve.x from w was dropped: KeyError: 'run'"
    assert surprise.exc_info is not None


def test_bad_messages_neither_fill_the_log_nor_break_its_lines(caplog: pytest.LogCaptureFixture):
    mailbox = Mailbox()
    listener = mailbox.listener(failing(MessageError("a\nb" * 10_000)))
    for _ in range(10 * MAX_WARNINGS):
        listener(msg=message(sender="x\n" * 10_000))
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert mailbox.count == 10 * MAX_WARNINGS
    assert len(lines) == MAX_WARNINGS + 1
    assert all("\n" not in line and len(line) < 500 for line in lines)
