"""Simulators as processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from simulator_client import Client

from fineserve_shapes.simulator.process import SimulatorProcess


@pytest.fixture(scope="session")
def simulate() -> Iterator[Callable[..., Client]]:
    """Give a client of a simulator with these flags; equal flags share one process."""
    clients: dict[str, Client] = {}
    with ExitStack() as stack:

        def give(**flags: Any) -> Client:
            key = repr(sorted(flags.items()))
            if key not in clients:
                clients[key] = Client(stack.enter_context(SimulatorProcess(**flags)))
            return clients[key]

        yield give


@pytest.fixture
def vllm(simulate: Callable[..., Client]) -> Client:
    """A fast vLLM: 5 ms to the first token, then 1 ms each."""
    return simulate(model="tiny", max_model_len=2048, ttft_ms=5, itl_ms=1)


@pytest.fixture
def transformers(simulate: Callable[..., Client]) -> Client:
    return simulate(model="tiny", max_model_len=2048, ttft_ms=5, itl_ms=1, dialect="transformers", hostile_text=True)
