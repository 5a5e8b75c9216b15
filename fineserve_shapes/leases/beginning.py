"""Beginning: what the master tells its workers when a run begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fineserve_shapes.leases.messages import data_field, pack_names, unpack_names
from fineserve_shapes.measure.names import Names


@dataclass(frozen=True, slots=True)
class Beginning:
    """The message BEGIN.

    start_s: the run's time 0 on the master's clock. warmup_s, token_times: see `Outbox`. logged: whether the master keeps
    a request log, so that the worker keeps its records until the master has them. names: of the streams.
    """

    run: str
    start_s: float
    warmup_s: float
    logged: bool
    token_times: bool
    names: Names

    def pack(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": self.run,
            "start_s": self.start_s,
            "warmup_s": self.warmup_s,
            "logged": self.logged,
            "token_times": self.token_times,
            **pack_names(self.names),
        }

    @classmethod
    def unpack(cls, data: Any) -> Beginning:
        """What was packed. Raises MessageError for anything else."""
        return cls(
            data_field(data, "run", str),
            data_field(data, "start_s", float),
            data_field(data, "warmup_s", float),
            data_field(data, "logged", bool),
            data_field(data, "token_times", bool),
            unpack_names(data),
        )
