"""Block: some thousand requests of a plan, as columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from fineserve_shapes.workload.prefixblocks import PrefixBlocks


BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of a plan in time order; all arrays have shape (n,).

    index: position in the plan, from 0, unique in the run.
    due_s: intended time in seconds from the start of the run, ascending.
    input_tokens, output_tokens: lengths asked for, each at least 1.
    stream: which stream of the mix the request belongs to (0 where there is one).
    prefix: the shared blocks that each prompt begins with; None where none is shared.
    position: of each request among those of its stream, from 0; None: the same as `index`.
    """

    index: IntArray
    due_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    stream: IntArray
    prefix: PrefixBlocks | None = None
    position: IntArray | None = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: slice | IntArray | BoolArray) -> Block:
        """The rows picked by a slice, positions or a mask, as a block."""
        return Block(
            self.index[rows],
            self.due_s[rows],
            self.input_tokens[rows],
            self.output_tokens[rows],
            self.stream[rows],
            None if self.prefix is None else self.prefix[rows],
            None if self.position is None else self.position[rows],
        )


def split(block: Block, rows: int = BLOCK_ROWS) -> Iterator[Block]:
    """The block in pieces of at most so many rows, in order."""
    for start in range(0, len(block), rows):
        yield block.take(slice(start, start + rows))
