"""Standing: how a worker is doing, as it travels with each of its reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.leases.messages import TOKENS, MessageError, data_field, unpack_array, unpack_counts
from fineserve_shapes.measure.reads import Reads


@dataclass(frozen=True, slots=True)
class Standing:
    """What a report says beside what became of rows.

    in_flight, tokens_come: requests sent and not ended, and output tokens that have come, by the number of their stream.
    offset_s: the master's clock less the worker's; uncertainty_s: how far off that is at most.
    loop_delays_s: by how much the worker's event loop was late since the last report, shape (n,). reads: how late tokens
    were read since then.
    """

    run: str
    in_flight: Mapping[int, int]
    tokens_come: Mapping[int, int]
    offset_s: float
    uncertainty_s: float
    loop_delays_s: FloatArray
    reads: Reads

    def pack(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": self.run,
            "in_flight": list(self.in_flight.items()),
            "tokens_come": list(self.tokens_come.items()),
            "offset_s": self.offset_s,
            "uncertainty_s": self.uncertainty_s,
            "loop_delays": self.loop_delays_s.astype("<f8").tobytes(),
            "reads": self.reads.pack(),
        }

    @classmethod
    def unpack(cls, data: Any) -> Standing:
        """What was packed; delays that are none are left out. Raises MessageError for anything else."""
        delays_s = unpack_array(data, "loop_delays", np.dtype("<f8"))
        try:
            reads = Reads.unpack(data_field(data, "reads", list))
        except (ValueError, KeyError, TypeError) as error:
            raise MessageError(f"the field 'reads' of a message cannot be read: {error}") from None
        return cls(
            data_field(data, "run", str),
            unpack_counts(data, "in_flight"),
            unpack_counts(data, "tokens_come", TOKENS),
            data_field(data, "offset_s", float),
            data_field(data, "uncertainty_s", float),
            np.maximum(delays_s[np.isfinite(delays_s)], 0.0),
            reads,
        )
