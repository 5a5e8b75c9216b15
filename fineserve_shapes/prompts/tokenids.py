"""Prompts as token ids, for servers that take them: exact without a tokenizer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from fineserve_shapes.arrays import IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.prompts.prompt import MASK, Form, Identity, Prompt, digest
from fineserve_shapes.prompts.ring import Ring
from fineserve_shapes.workload.seeds import Purpose, rng

VOCAB_SIZE = 4000
_FIRST_ID = 1000
_RING_IDS = 1 << 17


def default_ids(vocab_size: int = VOCAB_SIZE) -> IntArray:
    """Ids that are safe without knowing the tokenizer: 1000 to 3999, unless another vocabulary size is given.

    Special ids lie at the very bottom (Llama 2: 0 to 2, then raw bytes up to 258), in the first thousand (Mistral's
    Tekken), or at the very top (GPT-2, Llama 3, Qwen), and no served model has fewer than a few thousand ids. So give
    the number of ordinary ids where the special ones are at the top. Small vocabularies leave out their first quarter.
    """
    return np.arange(min(_FIRST_ID, vocab_size // 4), vocab_size)


class TokenIds:
    """Prompts as token ids: exact by construction, some microseconds each.

    A prompt is a head of ids that no other index has, then a run of a ring of ids rendered to bytes once, then the
    suffix. The head spells a 32-bit number, which a bijection makes of the index, in base len(ids): three ids for 1,626
    and more. So any two of 2**32 prompts differ within their first three tokens, not with high probability but always.

    ids: what heads, and bodies without `rows`, are made of; at least 16, so that a head fits into a cache block.
    rows: token ids of texts, at least one each: bodies begin where one of them does, and go on with the next.
    suffix: ids at the end of each prompt.

    Raises InputError for fewer ids.
    """

    form: Form = "token_ids"
    inexact: str | None = None

    def __init__(
        self,
        seed: int,
        ids: IntArray,
        *,
        rows: Sequence[Sequence[int]] | None = None,
        suffix: Sequence[int] = (),
    ) -> None:
        if len(ids) < 16:
            raise InputError(f"prompts of token ids need at least 16 ordinary ids in the vocabulary, got {len(ids)}")
        if rows is None:
            rows = rng(seed, Purpose.SHARED_TOKENS).choice(ids, size=(_RING_IDS, 1)).tolist()
        pieces = [b"%d," % token for row in rows for token in row]
        starts = np.concatenate(([0], np.cumsum([len(row) for row in rows])))[:-1]
        self._ring = Ring(pieces, np.ones(len(pieces), dtype=np.int64), starts)
        self._names = [b"%d," % token for token in ids]
        self._head_ids = next(count for count in itertools.count(1) if len(ids) ** count > MASK)
        self._suffix = b"".join(b"%d," % token for token in suffix)
        self._suffix_ids = len(suffix)
        self._identity = Identity(seed)
        self.digest = digest(seed, self.form, self._ring.content, b"".join(self._names), self._suffix)

    def prompt(self, index: int, input_tokens: int, prefix: Sequence[int] = ()) -> Prompt:
        """Exactly so many ids, but at least one beside the suffix."""
        tokens = max(input_tokens, 1 + self._suffix_ids)
        left = tokens - self._suffix_ids
        parts = [b"["]
        for number in prefix[1:]:
            cost = min(prefix[0], left)
            parts += self._run(self._identity.of_block(number), cost)
            left -= cost
        parts += self._run(self._identity.of(index), left)
        fragment = b"".join((*parts, self._suffix))
        return Prompt(fragment[:-1] + b"]", tokens)

    def _run(self, identity: tuple[int, int], tokens: int) -> list[bytes]:
        """So many ids that are this identity's own: a longer run begins like a shorter one."""
        unique, place = identity
        parts = []
        for _ in range(min(self._head_ids, tokens)):
            unique, digit = divmod(unique, len(self._names))
            parts.append(self._names[digit])
        return [*parts, self._ring.run(place, tokens - len(parts))[0]]
