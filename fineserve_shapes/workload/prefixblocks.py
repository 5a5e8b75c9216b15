"""PrefixBlocks: which blocks of a prompt a request shares with others, as a ragged column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fineserve_shapes.workload.block import IntArray

BLOCK_TOKENS = 512  # of a prompt stand behind one id in Mooncake's traces


@dataclass(frozen=True, slots=True, eq=False)
class PrefixBlocks:
    """Ids of the blocks that each prompt begins with; equal ids at equal positions are equal tokens. A row without ids
    shares nothing.

    offsets: shape (n + 1,), from 0; row i has ids[offsets[i]:offsets[i + 1]]. ids: shape (offsets[-1],).
    block_tokens: how many tokens stand behind an id; the last block is cut where the prompt ends.
    """

    offsets: IntArray
    ids: IntArray
    block_tokens: int = BLOCK_TOKENS

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> PrefixBlocks:
        """The ids of each row."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        flat = [number for row in rows for number in row]
        return cls(np.concatenate(([0], np.cumsum(lengths))), np.array(flat, dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[PrefixBlocks]) -> PrefixBlocks:
        """The parts, of which there is at least one, one below the other."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        ids = np.concatenate([part.ids for part in parts])
        return cls(np.concatenate(([0], np.cumsum(lengths))), ids, parts[0].block_tokens)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, which: slice | IntArray | npt.NDArray[np.bool_]) -> PrefixBlocks:
        """The rows picked by a slice, positions or a mask."""
        starts, lengths = self.offsets[:-1][which], np.diff(self.offsets)[which]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PrefixBlocks(offsets, self.ids[places], self.block_tokens)

    def rows(self) -> list[tuple[int, ...]]:
        """Each row as a plain tuple: tokens per block, then the ids; () where there are none."""
        ids = self.ids.tolist()
        bounds = self.offsets.tolist()
        return [
            (self.block_tokens, *ids[start:end]) if end > start else () for start, end in itertools.pairwise(bounds)
        ]
