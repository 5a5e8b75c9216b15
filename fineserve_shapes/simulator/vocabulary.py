"""The simulator's own tokens: a token is a word, and what it counts it can also write.

Text is counted by its words (runs of characters between ASCII white space), a chat message as its words and four tokens
for the template after it. Every generated token is a space and a word, so answers count the same when they come back
as prompts. Ids are a hash of the word: they say that two words are equal, and nothing else.
"""

import zlib
from collections.abc import Hashable, Iterable

import orjson

VOCABULARY_SIZE = 131_072
CHAT_MESSAGE_TOKENS = 4
_TEMPLATE: tuple[Hashable, ...] = tuple(("template", n) for n in range(CHAT_MESSAGE_TOKENS))

_PLAIN_TEXT = """
the of and to in is that it was for on are as with his they at be this have from or one had by word but not what all
were we when your can said there use an each which she do how their if will up other about out many then them these so
some her would make like him into time has look two more write go see number no way could people my than first water
been call who oil its now find long down day did get come made may part server token batch cache model stream queue
"""
# what needs escapes in JSON or several bytes in UTF-8, and what some line readers take for the end of a line
_HOSTILE_TEXT = """
"first" naïve café Größe 東京 привет ✓ C:\\temp </script> a\u2028b c\u2029d e\u0085f 🙂 {"data": data: [DONE]
"""


def words(text: str) -> list[bytes]:
    """The tokens of a text."""
    # of bytes, since str.split() would also split at U+2028 and others, which stand in our own words
    return text.encode("utf-8", "surrogatepass").split()


def id_of(token: Hashable) -> int:
    """The id of a token: of a word its hash, of an id itself, of the template's tokens 0."""
    if isinstance(token, int):
        return token
    return zlib.crc32(token) % VOCABULARY_SIZE if isinstance(token, bytes) else 0


def chat_tokens(texts: Iterable[str]) -> list[Hashable]:
    """The tokens of a chat, one text per message: the answer to its beginning is the beginning of its continuation."""
    tokens: list[Hashable] = []
    for text in texts:
        tokens += words(text)
        tokens += _TEMPLATE
    return tokens


class Vocabulary:
    """The words that a server generates.

    `words` are the tokens, `texts` what is written for them, `json` the same as it stands between the quotes of a JSON
    string, `ids` their ids; all in one order.
    """

    def __init__(self, text: str) -> None:
        self.words = tuple(words(text))
        self.texts = tuple(" " + word.decode() for word in self.words)
        self.json = tuple(orjson.dumps(text)[1:-1] for text in self.texts)
        self.ids = tuple(map(id_of, self.words))

    def __len__(self) -> int:
        return len(self.words)


PLAIN = Vocabulary(_PLAIN_TEXT)
"""Harmless words, of which answers are made."""
HOSTILE = Vocabulary(_PLAIN_TEXT + _HOSTILE_TEXT)
"""The same, and some that are hard to read for clients that do not do it right."""
