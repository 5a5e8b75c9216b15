"""Performing: what a worker asks of the part of it that knows servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.leases.lease import Row
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.measure.records import Records
from fineserve_shapes.protocol.result import Result


class Numbered(Protocol):
    """A stream."""

    @property
    def number(self) -> int: ...


class FirstToken(Protocol):
    """The request whose first token came."""

    @property
    def index(self) -> int: ...
    @property
    def stream(self) -> Numbered: ...
    @property
    def due_s(self) -> float: ...
    @property
    def input_tokens(self) -> int: ...


class Performer(Protocol):
    """Turns rows into requests: the part of a worker that knows servers."""

    def open(self) -> dict[str, Any]:
        """Get ready (tokenizer, a first look at the server); facts for the master. Raises InputError where it cannot."""

    def prepare(self, row: Row) -> Any:
        """Make what the row needs, ahead of time."""

    def perform(self, run: str, row: Row, prepared: Any) -> Result:
        """Send the row and wait for its end; never raises but for what kills a greenlet."""

    def warm_up(self, run: str, row: Row) -> Result:
        """Send a warm-up request, which is not recorded; never raises but for what kills a greenlet."""

    def first_tokens(self) -> Sequence[tuple[FirstToken, float, float]]:
        """Requests whose first token came since the last call, with when they were sent and when it came (perf_counter)."""

    def take_reads(self) -> Reads:
        """How late tokens were read since the last call."""

    def tokens_come(self) -> Mapping[int, int]:
        """Output tokens that have come since `open`, by stream, those of answers that have not ended included.

        Empty where that is not known.
        """

    def measured(self, rows: Records, itl_s: Mapping[int, FloatArray]) -> None:
        """Requests that ended since the last call, and by stream the gaps between their chunks, shape (n,), seconds."""

    def close(self) -> None:
        """The run is over."""
