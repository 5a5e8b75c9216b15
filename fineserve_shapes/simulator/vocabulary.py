"""The simulator's own tokens: a token is a word, and what it counts it can also write.

Text is counted by its words (runs of characters between ASCII white space), a chat message as its words and four tokens
for the template around it. Every generated token is a space and a word, so answers count the same when they come back
as prompts. Ids are a hash of the word: they say that two words are equal, and nothing else.
"""

import zlib
from collections.abc import Iterable

import orjson

VOCABULARY_SIZE = 131_072
CHAT_MESSAGE_TOKENS = 4

# some need escapes in JSON or several bytes in UTF-8, so that clients meet both
_WORDS_TEXT = """
the of and to in is that it was for on are as with his they at be this have from or one had by word but not what all
were we when your can said there use an each which she do how their if will up other about out many then them these so
some her would make like him into time has look two more write go see number no way could people my than "first" water
been call who oil its now find long down day did get come made may part naïve café Größe 東京 привет ✓ C:\\temp
</script> a\u2028b 🙂 server token batch cache model stream queue
"""


def _words(text: str) -> list[bytes]:
    # of bytes, since str.split() would also split at U+2028 and others, which stand in our own words
    return text.encode("utf-8", "surrogatepass").split()


_WORDS = tuple(word.decode() for word in _words(_WORDS_TEXT))
TOKEN_TEXTS: tuple[str, ...] = tuple(" " + word for word in _WORDS)
TOKEN_JSON: tuple[bytes, ...] = tuple(orjson.dumps(text)[1:-1] for text in TOKEN_TEXTS)
"""The texts as they stand between the quotes of a JSON string."""


def token_ids(text: str) -> list[int]:
    """Ids of the words of a text."""
    return [zlib.crc32(word) % VOCABULARY_SIZE for word in _words(text)]


TOKEN_IDS: tuple[int, ...] = tuple(token_ids(word)[0] for word in _WORDS)


def count_text(text: str) -> int:
    """Tokens of a text that is not empty: at least 1."""
    return max(1, len(_words(text)))


def count_messages(texts: Iterable[str]) -> int:
    """Tokens of a chat, one text per message."""
    return sum(len(_words(text)) + CHAT_MESSAGE_TOKENS for text in texts)
