"""The middle of an answer: HTTP chunks that differ in their words alone, all rendered before the first is due.

An answer's words repeat after `PHRASE`, so there are so many chunks at most. What stands in them before and behind the
part that is the answer's own is the same for all answers that begin with the same word, and is rendered once.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle, islice

from fineserve_shapes.simulator.vocabulary import Vocabulary

PHRASE = 16
"""Words of an answer before they repeat."""


def framed(event: bytes) -> bytes:
    """An event as an HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(event), event)


def word(vocabulary: Vocabulary, first_word: int, token: int) -> int:
    """The word that is token number `token`, from 1, of an answer."""
    return (first_word + token % PHRASE) % len(vocabulary)


def chunks(vocabulary: Vocabulary, first_word: int, head: bytes, tail: bytes) -> tuple[bytes, ...]:
    """The chunks of a phrase: events of `head`, a word as JSON, and `tail`. Token k's is number k modulo their count."""
    return tuple(map(head.join, _sides(vocabulary, first_word % len(vocabulary), len(head), tail)))


def repeated(phrase: tuple[bytes, ...], tokens: range) -> Iterator[bytes]:
    """The chunks of these tokens, which follow each other."""
    start = tokens.start % len(phrase)
    return islice(cycle(phrase), start, start + len(tokens))


@lru_cache(maxsize=1024)
def _sides(vocabulary: Vocabulary, first_word: int, head_bytes: int, tail: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """What stands before and behind the head in the chunk of each word of the phrase."""
    texts = [vocabulary.json[word(vocabulary, first_word, token)] + tail for token in range(PHRASE)]
    return tuple((b"%x\r\n" % (head_bytes + len(text)), text + b"\r\n") for text in texts)
