"""Due blocks: what became of a run's requests, by the block of time in which they were due."""

from __future__ import annotations

import numpy as np

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray
from fineserve_shapes.measure.decision import Seen
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.outcome import OUTCOMES, Outcome

NEARLY = 2.0
"""A request nearly missed the SLO if it misses one so many times as tight."""
_CANCELLED = OUTCOMES.index(Outcome.CANCELLED)


class DueBlocks:
    """Counts of requests planned, ended, good, and good by half of each limit. It follows a `Tally`.

    slo: what is good. block_s: length of a block. stream: the number of the one that counts; None: all do. Memory: 32 bytes
    a block.

    A request that we cancelled has not ended: what would have become of it is not known.
    """

    def __init__(self, slo: Slo | Slos, block_s: float, stream: int | None = None) -> None:
        self.block_s = block_s
        self._stream = stream
        self._slo, self._tighter = slo, slo.tighter(NEARLY)
        self._planned, self._ended, self._good, self._comfortable = (np.zeros(256) for _ in range(4))

    def plan(self, streams: IntArray, due_s: FloatArray) -> None:
        """Rows of the plan are due then."""
        mine = due_s if self._stream is None else due_s[streams == self._stream]
        self._planned = self._counted(self._planned, mine)

    def add(self, measured: Measurements) -> None:
        """What a worker measured."""
        rows = measured.records
        rows = rows[rows["outcome"] != _CANCELLED]
        if self._stream is not None:
            rows = rows[rows["stream"] == self._stream]
        due_s = rows["due_s"]
        self._ended = self._counted(self._ended, due_s)
        self._good = self._counted(self._good, due_s, self._slo.met(rows))
        self._comfortable = self._counted(self._comfortable, due_s, self._tighter.met(rows))

    def open_before(self, end_s: float) -> int:
        """How many requests due before that time have not ended."""
        end = self._block(end_s)
        return int(self._planned[:end].sum() - self._ended[:end].sum())

    def seen(self, start_s: float, end_s: float, in_flight: FloatArray) -> Seen:
        """The blocks that lie between these times of due. in_flight: by second; see `Seen`."""
        begin, end = int(np.ceil(round(start_s / self.block_s, 6))), self._block(end_s)
        missing = max(end - min(map(len, (self._planned, self._ended, self._good, self._comfortable))), 0)
        planned, ended, good, comfortable = (
            np.pad(counts, (0, missing))[begin:end]
            for counts in (self._planned, self._ended, self._good, self._comfortable)
        )
        return Seen(planned, ended - good, ended - comfortable, in_flight, open=planned - ended)

    def _block(self, at_s: float) -> int:
        return int(round(at_s / self.block_s, 6))

    def _counted(self, counts: FloatArray, due_s: FloatArray, picked: BoolArray | None = None) -> FloatArray:
        """The counts and those of these times of due; a time before the run's start is in the first block."""
        if not len(due_s):
            return counts
        blocks = (np.maximum(due_s, 0.0) / self.block_s).astype(np.int64)
        if (most := int(blocks.max())) >= len(counts):
            counts = np.pad(counts, (0, max(most + 1 - len(counts), len(counts))))
        np.add.at(counts, blocks if picked is None else blocks[picked], 1.0)
        return counts
