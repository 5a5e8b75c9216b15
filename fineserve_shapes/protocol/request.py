"""What is asked: a request of the plan becomes the JSON body of a completion or a chat.

What may live here: the JSON that servers of the OpenAI dialects take. Pure functions; no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import orjson

MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
"""What servers call the number of tokens to generate, the older name first."""


class Api(StrEnum):
    """The two ways to ask; the value is the path that servers commonly have for it."""

    COMPLETIONS = "/v1/completions"
    CHAT = "/v1/chat/completions"

    @property
    def suffix(self) -> str:
        """What follows the base of the API."""
        return self.removeprefix("/v1")


class BodyTemplate:
    """Request bodies that differ in prompt and length alone.

    All that is the same for every request is rendered once: a body is then a join of bytes. A field that is among the
    common ones stands in each body as it is there, the prompt and the length included, and never twice.

    fields: the fields common to all requests. A value of None leaves the field out, of every body.
    max_tokens_field: what the server calls the length.
    """

    def __init__(self, api: Api, fields: Mapping[str, object], max_tokens_field: str = "max_tokens") -> None:
        kept = {name: value for name, value in fields.items() if value is not None}
        self._common = [orjson.dumps(kept)[1:-1]] if kept else []
        prompt_field = "prompt" if api is Api.COMPLETIONS else "messages"
        self._prompt = None if prompt_field in fields else b'"%s":' % prompt_field.encode()
        # of two lengths in a body, chats go by the newer name, and completions know the older one alone
        names = MAX_TOKENS_FIELDS if api is Api.COMPLETIONS else MAX_TOKENS_FIELDS[::-1]
        lengths = [kept[name] for name in names if name in kept]
        given = bool(lengths) or max_tokens_field in fields
        self._length = None if given else b'"%s":' % max_tokens_field.encode()
        self._output_tokens = _positive(lengths[0]) if lengths else None

    def body(self, prompt_json: bytes, output_tokens: int) -> bytes:
        """The body for a prompt (for chat: messages), already JSON, and a number of tokens to generate."""
        members = self._common.copy()
        if self._prompt is not None:
            members.append(self._prompt + prompt_json)
        if self._length is not None:
            members.append(b"%s%d" % (self._length, output_tokens))
        return b"{%s}" % b",".join(members)

    def output_tokens(self, row_tokens: int) -> int | None:
        """How many tokens a body really asks for: its row's, unless the common fields say it; None where nothing does."""
        return self._output_tokens if self._length is None else row_tokens


def body_fields(
    model: str, *, backend: str, stream: bool, ignore_eos: bool, extra: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The fields of a request that do not depend on its row.

    Usage is always asked for, since a count of chunks is no count of tokens. `ignore_eos` is vLLM's and goes to no
    other backend. `extra` overrides by field; None in it takes a field away. Whatever it says, `stream_options` go with
    streams alone: servers refuse them elsewhere.
    """
    fields: dict[str, object] = {"model": model, "stream": stream, "stream_options": {"include_usage": True}}
    if backend == "vllm" and ignore_eos:
        fields["ignore_eos"] = True
    fields |= extra or {}
    if not streams(fields):
        del fields["stream_options"]
    return fields


def streams(fields: Mapping[str, object]) -> bool:
    """Whether a request with these fields asks for a stream."""
    return fields.get("stream") is True


def choices_asked(fields: Mapping[str, object]) -> int:
    """How many choices the answer to a request with these fields has: `n` for each of its prompts.

    Those that `best_of` makes the server generate beside them do not come back.
    """
    return _prompts(fields) * (_positive(fields.get("n")) or 1)


def candidates_asked(fields: Mapping[str, object]) -> int:
    """How many choices the server generates, to give back the best ones: `best_of` for each prompt, and at least those."""
    return max(_prompts(fields) * (_positive(fields.get("best_of")) or 1), choices_asked(fields))


def _prompts(fields: Mapping[str, object]) -> int:
    """How many prompts there are: one is text or a list of token ids, and `prompt` may be a list of such."""
    prompts = fields.get("prompt")
    return len(prompts) if isinstance(prompts, list) and prompts and isinstance(prompts[0], str | list) else 1


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
