"""Text: words of others (servers, files, command lines) made fit for a message of ours."""

MAX_CHARS = 300  # of what somebody says
QUOTED_CHARS = 40  # of one name or value


def clipped(text: str, limit: int = QUOTED_CHARS) -> str:
    """At most `limit` characters, the last of them an ellipsis where some are left out; control characters become `?`."""
    shown = "".join(character if character.isprintable() else "?" for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def shorten(text: str, limit: int = MAX_CHARS) -> str:
    """The same on one line: every run of white space becomes one space."""
    return clipped(" ".join(text[: 4 * limit].split()), limit)
