"""What is asked: a request of the plan becomes the JSON body of a completion or a chat.

What may live here: the JSON that servers of the OpenAI dialects take. Pure functions; no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import orjson


class Api(StrEnum):
    """The two ways to ask; the value is the path."""

    COMPLETIONS = "/v1/completions"
    CHAT = "/v1/chat/completions"


class BodyTemplate:
    """Request bodies that differ in prompt and length alone.

    All that is the same for every request is rendered once: a body is then a join of bytes.

    fields: the fields common to all requests. A value of None leaves the field out.
    """

    def __init__(self, api: Api, fields: Mapping[str, object]) -> None:
        kept = {name: value for name, value in fields.items() if value is not None}
        common = orjson.dumps(kept)[1:-1]
        self._head = (
            b"{"
            + common
            + (b"," if common else b"")
            + b'"%s":' % (b"prompt" if api is Api.COMPLETIONS else b"messages")
        )
        self._length = b',"max_tokens":%d}' if fields.get("max_tokens", 0) is not None else b"}"

    def body(self, prompt_json: bytes, output_tokens: int) -> bytes:
        """The body for a prompt (for chat: messages), already JSON, and a number of tokens to generate."""
        length = self._length % output_tokens if len(self._length) > 1 else self._length
        return b"".join((self._head, prompt_json, length))


def body_fields(
    model: str, *, backend: str, stream: bool, ignore_eos: bool, extra: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The fields of a request that do not depend on its row.

    Usage is always asked for, since a count of chunks is no count of tokens. `ignore_eos` is vLLM's and goes to no
    other backend. `extra` overrides by field; None in it takes a field away.
    """
    fields: dict[str, object] = {"model": model, "stream": stream}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    if backend == "vllm" and ignore_eos:
        fields["ignore_eos"] = True
    return {**fields, **(extra or {})}
