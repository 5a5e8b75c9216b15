"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificate, make_certificate
from turns import turn

REAL_PROCESSES = ("locust", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real processes get a second chance.

    They measure a machine too: one that stands still for two seconds (seen on shared ones) makes a worker fall silent,
    and the run says `unknown`, as it should. A fault of ours does not go away by itself.
    """
    for item in items:
        if item.path.parent.name in REAL_PROCESSES and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before a test's time limit begins to count
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many reruns it took: a suite that passes by second chances is to be seen."""
    terminalreporter.write_line(f"reruns: {len(terminalreporter.stats.get('rerun', []))}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    try:
        return make_certificate(tmp_path_factory.mktemp("tls"))
    except FileNotFoundError:
        pytest.skip("no openssl command to make a certificate with")
