"""PrefixBlocks: which blocks of a prompt a request shares with others, as a ragged column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fineserve_shapes.arrays import BoolArray, IntArray

BLOCK_TOKENS = 512  # of a prompt stand behind one id in Mooncake's traces


@dataclass(frozen=True, slots=True, eq=False)
class PrefixBlocks:
    """Ids of the blocks that each prompt begins with; equal ids at equal positions are equal tokens. A row without ids
    shares nothing.

    offsets: shape (n + 1,), from 0; row i has ids[offsets[i]:offsets[i + 1]]. ids: shape (offsets[-1],).
    block_tokens: how many tokens stand behind an id, one number for all rows or shape (n,); the last block is cut where
    the prompt ends.
    """

    offsets: IntArray
    ids: IntArray
    block_tokens: int | IntArray = BLOCK_TOKENS

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
        sizes = [part.block_tokens for part in parts]
        tokens: int | IntArray = sizes[0]
        if not all(isinstance(size, int) and size == sizes[0] for size in sizes):
            tokens = np.concatenate([np.broadcast_to(part.block_tokens, len(part)) for part in parts])
        return cls(np.concatenate(([0], np.cumsum(lengths))), ids, tokens)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, which: slice | IntArray | BoolArray) -> PrefixBlocks:
        """The rows picked by a slice, positions or a mask."""
        starts, lengths = self.offsets[:-1][which], np.diff(self.offsets)[which]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        tokens = self.block_tokens
        return PrefixBlocks(offsets, self.ids[places], tokens if isinstance(tokens, int) else tokens[which])

    def fitting(self, input_tokens: IntArray, block_tokens: int) -> BoolArray:
        """Which rows have an id for each block of a prompt of so many tokens, the last one perhaps cut; those without any
        id and those without a token do."""
        counts = np.diff(self.offsets)
        fits: BoolArray = (counts == -(-input_tokens // block_tokens)) | (counts == 0) | (input_tokens < 1)
        return fits

    def best_block_tokens(self, input_tokens: IntArray) -> int:
        """The block size that fits most rows: one that fits all, if there is such, a power of two, if there is.

        n ids fit b tokens a block, n = ceil(L / b), for L / n <= b < L / (n - 1).
        """
        counts = np.diff(self.offsets)
        told = (counts > 0) & (input_tokens > 0)
        counts, lengths = counts[told], input_tokens[told]
        least = int(np.max(-(-lengths // counts), initial=1))
        candidates = [1 << power for power in range(24)]
        candidates.append(least)
        return max(candidates, key=lambda tokens: int(np.count_nonzero(-(-lengths // tokens) == counts)))

    def cut(self, most: IntArray) -> PrefixBlocks:
        """The same without the ids of a row beyond so many."""
        lengths = np.minimum(np.diff(self.offsets), most)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        places = np.repeat(self.offsets[:-1] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PrefixBlocks(offsets, self.ids[places], self.block_tokens)

    def rows(self) -> list[tuple[int, ...]]:
        """Each row as a plain tuple: tokens per block, then the ids; () where there are none."""
        ids = self.ids.tolist()
        bounds = self.offsets.tolist()
        tokens = np.broadcast_to(self.block_tokens, len(self)).tolist()
        return [
            (size, *ids[start:end]) if end > start else ()
            for size, (start, end) in zip(tokens, itertools.pairwise(bounds), strict=True)
        ]
