"""Leases: who may send which row, so that no row is ever sent twice and none is lost unsaid.

What may live here: the values that pass between two state machines, the master's `LeaseBook` (book.py) and the worker's
`LeaseHolder` (holder.py). None of the three has sockets, greenlets or a clock: time is an argument, in seconds of the run
(0 is the start of the plan).

The master leases the rows that fall due within a horizon; a worker reports what ended (done) and what it gave back
(dropped). Messages may be lost, doubled or late: leases and batches are numbered, what is not confirmed is sent again,
and each number is taken once. An empty lease keeps a worker alive.

Why no row is sent twice. Each lease tells the worker `seen_s`, the worker's own time stamp on the newest of its reports
that the master has seen. A worker sends a row at its time T only if due <= T <= seen_s + fence. A master that gives a
worker up stops confirming its reports, and passes on only the rows with due > seen_s + fence: none of them can have
been sent or ever will be, whatever the clocks and however long the worker sleeps between the check and its next breath.
What is due before that is booked as `unknown`, and a late report replaces it. On its return a worker gets a new epoch,
which voids all it held before; what it then gives back is told apart by its old epoch, since the same row may have come
to it anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import IntArray
from fineserve_shapes.leases.slots import NO_LOAD, Limit, Load
from fineserve_shapes.workload.block import Block

HORIZON_S = 3.0
FENCE_S = 1.0
SILENCE_S = FENCE_S  # a worker that is not heard sends nothing from then on: to wait longer makes its rows late
RESEND_S = 1.0
ROUNDING_S = 1e-3  # more than any sum of these times can be off by
LEASE_ROWS = 4096


class Row(NamedTuple):
    """One request of the plan; rows order by due time.

    request: its index in the plan. stream: the number of its stream. position: among the requests of that, from 0.
    prefix: the shared blocks that its prompt begins with (`PrefixBlocks.rows`).
    """

    due_s: float
    request: int
    input_tokens: int
    output_tokens: int
    stream: int
    position: int
    prefix: tuple[int, ...] = ()


def rows_of(block: Block) -> list[Row]:
    """A block row by row."""
    position = block.index if block.position is None else block.position
    columns = (block.due_s, block.index, block.input_tokens, block.output_tokens, block.stream, position)
    prefix = itertools.repeat(()) if block.prefix is None else block.prefix.rows()
    return list(map(Row, *(column.tolist() for column in columns), prefix))


def block_of(rows: Sequence[Row]) -> Block:
    """Rows as a block, without what their prompts share. Raises ValueError where there is none."""
    due_s, index, input_tokens, output_tokens, stream, position = map(
        np.array, zip(*(row[:-1] for row in rows), strict=True)
    )
    return Block(index, due_s, input_tokens, output_tokens, stream, position=position)


@dataclass(frozen=True, slots=True)
class Lease:
    """Master to worker.

    number: the place of this lease in its epoch, from 0; None where there are no rows (a sign of life).
    seen_s: the worker's time stamp on its newest report seen here. batches: how many of its batches have been taken.
    limit: how many requests it may have in flight; None: as many as are due.
    """

    epoch: int
    seen_s: float
    batches: int
    number: int | None = None
    rows: Sequence[Row] = ()
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What happened on a worker since its last batch.

    done, outcomes: requests that ended and how (positions in OUTCOMES). dropped, epochs: requests given back, and the
    epoch in which they had been leased. payload: measurements that travel along, none of ours.
    """

    number: int
    done: IntArray
    outcomes: npt.NDArray[np.uint8]
    dropped: IntArray
    epochs: IntArray
    payload: Any = None


@dataclass(frozen=True, slots=True)
class Report:
    """Worker to master.

    at_s: the worker's time of sending. leases: how many leases of this epoch have been taken. late_s: how late rows have
    left since its last report, on average. leaving: it takes no more rows. load: what it has to do.
    """

    epoch: int
    at_s: float
    leases: int
    batches: Sequence[Batch] = ()
    late_s: float = 0.0
    leaving: bool = False
    load: Load = NO_LOAD
