"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL_PROCESSES = ("locust", "faults")

LONG = ("test_capacity_runs", "test_several_runs", "test_examples", "test_package", "test_commands", "test_mix_runs",
        "test_llm_tab", "test_mix_tab", "test_ends", "test_goes_on", "test_workers_fail")  # fmt: skip
"""Files whose tests take tens of seconds each, most of it waiting."""


@pytest.hookimpl(trylast=True)  # after the order has been shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come first, and tests with real processes get a second chance.

    They measure a machine too: one that stands still for two seconds (seen on shared ones) makes a worker fall silent,
    and the run says `unknown`, as it should. A fault of ours does not go away by itself.
    """
    for item in items:
        if item.path.parent.name in REAL_PROCESSES and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=2))
    items.sort(key=lambda item: item.path.stem not in LONG)  # first, so that none is left alone at the end


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many reruns it took: a suite that passes by second chances is to be seen."""
    terminalreporter.write_line(f"reruns: {len(terminalreporter.stats.get('rerun', []))}")
