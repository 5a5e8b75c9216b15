"""The KV cache: blocks of tokens, held by sequences, shared by their content, evicted by least recent use.

A block is full when all its tokens are computed; a full block is known by the hash of its tokens and of all before
them. A sequence whose prompt begins with known blocks holds those and computes the rest, at least one token of it. A
block that none holds any longer keeps its content until it is needed for something else: blocks unused for longest go
first, and of one sequence the last ones, since the first are those that others may share.
"""

from collections.abc import Callable, Hashable, Sequence


class Content:
    """What the tokens of a sequence are, as far as their equality with those of others goes.

    Parameters
    ----------
    prompt
        The tokens of the prompt: ids, words, whatever compares.
    answer
        Gives the token number n of the answer, from 1.
    """

    __slots__ = ("_answer", "_hashes", "_prompt")

    def __init__(self, prompt: Sequence[Hashable], answer: Callable[[int], Hashable]) -> None:
        self._prompt = prompt
        self._answer = answer
        self._hashes: list[int] = []

    def hash(self, block: int, block_tokens: int) -> int:
        """Hash of block number `block`, from 0, and of all before it."""
        hashes = self._hashes
        while len(hashes) <= block:
            start = len(hashes) * block_tokens
            tokens = tuple(self._prompt[start : start + block_tokens])
            if len(tokens) < block_tokens:
                first = start + len(tokens) - len(self._prompt) + 1
                tokens += tuple(self._answer(first + n) for n in range(block_tokens - len(tokens)))
            hashes.append(hash((hashes[-1] if hashes else 0, tokens)))
        return hashes[block]


class Held:
    """The blocks that a sequence holds, in order."""

    __slots__ = ("blocks", "content", "known")

    def __init__(self, content: Content | None) -> None:
        self.content = content
        self.blocks: list[int] = []
        self.known = 0  # of these blocks, those whose content the cache knows, or will not know


class KvCache:
    """So many blocks of so many tokens each.

    Parameters
    ----------
    blocks, block_tokens
        Its size.
    sharing
        Whether blocks are shared by content (prefix caching).
    """

    def __init__(self, blocks: int, block_tokens: int, *, sharing: bool) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self._sharing = sharing
        self._free = dict.fromkeys(range(blocks))  # in order of last use
        self._holders = [0] * blocks
        self._hash_of: dict[int, int] = {}
        self._block_of: dict[int, int] = {}

    @property
    def usage(self) -> float:
        """Share of the blocks that are held."""
        return 1.0 - len(self._free) / self.blocks

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens need."""
        return -(-tokens // self.block_tokens)

    def admit(self, held: Held, tokens: int) -> int | None:
        """Let a sequence that holds nothing hold what the cache knows of its first `tokens` tokens.

        Returns how many tokens of them need not be computed (all but the last one at most), or None, and then nothing
        has changed, if the blocks for the rest are not free.
        """
        found = self._find(held.content, (tokens - 1) // self.block_tokens)
        idle = sum(not self._holders[block] for block in found)
        if self.blocks_for(tokens) - len(found) > len(self._free) - idle:
            return None
        for block in found:
            self._holders[block] += 1
            self._free.pop(block, None)
        held.blocks = found
        held.known = len(found)
        return len(found) * self.block_tokens

    def extend(self, held: Held, tokens: int) -> bool:
        """Hold blocks for the first `tokens` tokens of a sequence; False, and nothing changed, if too few are free."""
        missing = self.blocks_for(tokens) - len(held.blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            block = next(iter(self._free))
            del self._free[block]
            self._holders[block] = 1
            if (old := self._hash_of.pop(block, None)) is not None:
                del self._block_of[old]
            held.blocks.append(block)
        return True

    def computed(self, held: Held, tokens: int) -> None:
        """The first `tokens` tokens of a sequence are computed: its full blocks are there for others."""
        full = tokens // self.block_tokens
        if full <= held.known:
            return
        if self._sharing and held.content is not None:
            for number in range(held.known, full):
                block, content_hash = held.blocks[number], held.content.hash(number, self.block_tokens)
                if content_hash not in self._block_of:
                    self._block_of[content_hash] = block
                    self._hash_of[block] = content_hash
        held.known = full

    def release(self, held: Held) -> None:
        """Hold nothing any longer."""
        for block in reversed(held.blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free[block] = None
        held.blocks = []
        held.known = 0

    def forget(self) -> None:
        """Forget all content that no sequence holds, as a restart does."""
        self._hash_of.clear()
        self._block_of.clear()

    def _find(self, content: Content | None, most: int) -> list[int]:
        found: list[int] = []
        if self._sharing and content is not None:
            for number in range(most):
                block = self._block_of.get(content.hash(number, self.block_tokens))
                if block is None:
                    break
                found.append(block)
        return found
