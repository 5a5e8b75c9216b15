"""Prompts as text, by the word or checked by a tokenizer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
import orjson

from fineserve_shapes.arrays import IntArray
from fineserve_shapes.prompts.prompt import Form, Identity, Prompt, digest
from fineserve_shapes.prompts.ring import Ring
from fineserve_shapes.prompts.tokenizer import Tokenizer
from fineserve_shapes.prompts.words import WORDS

_HEAD_WORDS = 4  # 256 ** 4 heads: one for each value of a 32-bit number


class Words:
    """Text for servers whose tokenizer is not known: as many words as tokens are asked for.

    That is exact where tokens are counted as words between white space, as the simulator does, and approximate
    elsewhere: real tokenizers make 1.0 to 1.6 tokens of a word, and add special tokens and the chat template. The first
    four words are a head that no other index has.

    texts: at least one word each.
    """

    inexact: str | None = "without a tokenizer one word is counted as one token (--tokenizer makes lengths exact)"

    def __init__(self, seed: int, texts: Sequence[str], *, suffix: str = "", chat: bool = False) -> None:
        self.form: Form = "chat" if chat else "text"
        pieces, starts = _pieces(texts, r"\s*\S+")
        self._ring = Ring(pieces, np.ones(len(pieces), dtype=np.int64), starts)
        self._suffix = suffix
        self._suffix_words = len(("x" + suffix).split()) - 1
        self._identity = Identity(seed)
        self.digest = digest(seed, self.form, self._ring.content, suffix)

    def prompt(self, index: int, input_tokens: int, prefix: Sequence[int] = ()) -> Prompt:
        """Exactly so many words, but at least one beside the suffix."""
        tokens = max(input_tokens, 1 + self._suffix_words)
        left = tokens - self._suffix_words
        parts = []
        for number in prefix[1:]:
            cost = min(prefix[0], left)
            parts.append(self._run(self._identity.of_block(number), cost))
            left -= cost
        parts.append(self._run(self._identity.of(index), left))
        return Prompt(_fragment(self.form, " ".join(filter(None, parts)) + self._suffix), tokens)

    def _run(self, identity: tuple[int, int], words: int) -> str:
        """So many words that are this identity's own: a longer run begins like a shorter one."""
        head = _head(identity[0], WORDS)[:words]
        return " ".join(head) + self._ring.run(identity[1], words - len(head))[0]


class TokenizedText:
    """Text that is checked to encode to exactly the asked number of tokens.

    A text is a head of four words that no other index has, a run of the corpus, filler words for the last tokens, and
    the suffix. The pieces of the corpus (words, long ones cut) have estimated costs, so a run of about the right length
    is one slice; the whole is then encoded as the server does it, special tokens and chat template included, and made
    longer or shorter by the difference until it fits: mostly at once. Neighbours that merge can make the difference
    jump back and forth, so later attempts end in ever more fillers, words that are one token each wherever they stand.

    Blocks that prompts share come first, each about as long as asked (an estimate, so that it is the same text in every
    prompt); the rest makes the length exact. A block that the prompt's length would cut is not shared.

    Encoding is what it costs: 1 to 3 us a token. It releases the interpreter's lock, so a thread can do it.

    texts: at least one word each.
    chat: a message, which the server puts into its template.
    templated: a completion prompt that is put into the tokenizer's template here.
    tokenizer: counts; the first tokens differ as long as four of its commonest words are at most a cache block.
    """

    _ENDS = (0, 0, 0, 1, 1, 2, 2, 4, 4, 8, 8, 16, 32)  # fillers at the end, attempt by attempt; then nothing else

    def __init__(
        self,
        seed: int,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        *,
        suffix: str = "",
        chat: bool = False,
        templated: bool = False,
    ) -> None:
        self.form: Form = "chat" if chat else "text"
        self.inexact: str | None = None
        if chat and not tokenizer.has_chat_template:
            self.inexact = f"the tokenizer {tokenizer.name!r} has no chat template, so its tokens are not counted"
        self._wrapped: Callable[[str], str] = tokenizer.templated if templated else str
        self._count: Callable[[str], int] = tokenizer.count_chat if chat and self.inexact is None else self._count_text
        self._tokenizer = tokenizer
        self._suffix = suffix
        pieces, starts = _pieces(texts, r"\s*\S{1,12}")
        distinct = list(dict.fromkeys(pieces))
        cost = dict(zip(distinct, tokenizer.count_each(distinct).tolist(), strict=True))
        self._ring = Ring(pieces, np.array([cost[piece] for piece in pieces]), starts)
        inside = tokenizer.count_each([" " + word for word in WORDS]).tolist()
        alone = [self._count(word + suffix) for word in WORDS]
        # The cheapest words make the shortest heads, and fillers that are one token wherever they stand.
        ranks = sorted(range(len(WORDS)), key=lambda rank: inside[rank] + alone[rank])
        self._overhead = alone[ranks[0]] - 1
        self._cost_first = {word: cost - self._overhead for word, cost in zip(WORDS, alone, strict=True)}
        self._cost_inside = dict(zip(WORDS, inside, strict=True))
        self._words = [WORDS[rank] for rank in ranks]
        self._fillers = self._words[:8]
        self._identity = Identity(seed)
        self.digest = digest(seed, self.form, str(templated), self._ring.content, suffix, tokenizer.digest)

    def prompt(self, index: int, input_tokens: int, prefix: Sequence[int] = ()) -> Prompt:
        """The text of that many tokens; where there is none, the shortest or the nearest."""
        unique, place = self._identity.of(index)
        head = _head(unique, self._words)
        budget = max(input_tokens - self._overhead, 1)
        shared, spent = self._shared(prefix, budget)
        budget = max(budget - spent, 1)
        best, best_tokens = "", -1
        for end in (*self._ENDS, input_tokens):
            text = shared + self._compose(head, place, budget, end)
            tokens = self._count(text)
            if best_tokens < 0 or abs(tokens - input_tokens) < abs(best_tokens - input_tokens):
                best, best_tokens = text, tokens
            if tokens == input_tokens or (tokens > input_tokens and budget == end == 1):
                break  # it fits, or one filler is too long already
            budget = max(budget + input_tokens - tokens, 1)
        return Prompt(_fragment(self.form, self._wrapped(best)), best_tokens)

    def _shared(self, prefix: Sequence[int], budget: int) -> tuple[str, int]:
        """The text of the blocks that leave room for a token after them, and what they cost."""
        parts: list[str] = []
        for number in prefix[1:]:
            if (len(parts) + 1) * prefix[0] >= budget:
                break
            unique, place = self._identity.of_block(number)
            parts.append(self._compose(_head(unique, self._words), place, prefix[0], 0, suffix="") + " ")
        while parts:
            spent = self._count("".join(parts)) - self._overhead
            if spent < budget:
                return "".join(parts), spent
            parts.pop()  # the estimate was too low
        return "", 0

    def _count_text(self, text: str) -> int:
        return self._tokenizer.count(self._wrapped(text))

    def _compose(self, head: Sequence[str], place: int, budget: int, end: int, suffix: str | None = None) -> str:
        """Text of about `budget` tokens beside the overhead, of which about `end` are fillers."""
        parts: list[str] = []
        left = budget - end
        for word in head:
            cost = self._cost_inside[word] if parts else self._cost_first[word]
            if cost > left:
                break
            parts.append(" " + word)
            left -= cost
        else:
            body, spent = self._ring.run(place, left)
            parts.append(body)
            left -= spent
        fillers = itertools.islice(itertools.cycle(self._fillers), max(min(left + end, budget), 0))
        parts.extend(" " + word for word in fillers)
        return "".join(parts).lstrip() + (self._suffix if suffix is None else suffix)


def _pieces(texts: Sequence[str], pattern: str) -> tuple[list[str], IntArray]:
    """The texts as pieces that make one running text, and the positions at which a text begins."""
    # A space first, so that a text can follow any other.
    cut = [re.findall(pattern, " " + text.strip()) for text in texts]
    return [piece for row in cut for piece in row], np.cumsum([0, *map(len, cut)])[:-1]


def _head(unique: int, words: Sequence[str]) -> list[str]:
    """The number spelt in four words, one per byte."""
    return [words[byte] for byte in unique.to_bytes(_HEAD_WORDS, "little")]


def _fragment(form: Form, text: str) -> bytes:
    string = orjson.dumps(text)
    return b'[{"role":"user","content":' + string + b"}]" if form == "chat" else string
