"""Answers to bytes: the events of a stream, and whole answers, in the shapes captured from the real servers.

A renderer belongs to one answer. What does not change from token to token is rendered once, so that a chunk costs one
`%` of bytes. Events are given without HTTP framing.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from fineserve_shapes.simulator import vocabulary
from fineserve_shapes.simulator.hosting import Hosting
from fineserve_shapes.simulator.requests import Generation

VLLM_VERSION = "0.32.0"
FINGERPRINT = f"vllm-{VLLM_VERSION}-51a71a70"
DONE = b"data: [DONE]\n\n"
ENGINE_DEAD = (
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
    b'"type": "InternalServerError", "param": null, "code": 500}}\n\n'
)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a server tells about a complete answer, if it is told to: the times it took, and tokens from its cache."""

    timings: dict[str, float] | None = None
    cached_tokens: int | None = None


class Renderer(Protocol):
    """One answer's bytes. `tokens` counts those of the answer so far, this chunk's included."""

    object_id: str
    varies: bool
    """Whether chunks in the middle differ in more than their text."""
    head: bytes
    """What a chunk in the middle has before its text."""
    tail: bytes
    """What it has behind it, unless it varies."""

    def opening(self) -> list[bytes]:
        """Events before generation starts."""
        ...

    def first(self) -> list[bytes]:
        """Events in the same write as the first token."""
        ...

    def chunk(self, text: bytes, tokens: int, ids: list[int]) -> bytes:
        """A chunk in the middle; `text` is JSON-escaped."""
        ...

    def last(self, text: bytes, tokens: int, ids: list[int], reason: str, extras: Extras) -> list[bytes]:
        """The last chunk and all that follows it."""
        ...

    def whole(self, text: str, tokens: int, reason: str, extras: Extras) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ...


def _event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _usage(prompt_tokens: int, tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + tokens, "completion_tokens": tokens}


_PLAIN_TAILS = {
    True: b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n',
    False: b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n',
}
"""What follows the text of a chunk in the middle, by whether it is a chat's."""


class VllmRenderer:
    """Chunks of vLLM's `/v1/completions` and `/v1/chat/completions`."""

    def __init__(self, request: Generation, request_id: str, created: int) -> None:
        self._request = request
        self.object_id = ("chatcmpl-" if request.chat else "cmpl-") + request_id
        kind = "chat.completion.chunk" if request.chat else "text_completion"
        self._common = {"id": self.object_id, "object": kind, "created": created, "model": request.name}
        choice = b',"choices":[{"index":0,"delta":{"content":"' if request.chat else b',"choices":[{"index":0,"text":"'
        self.head = b"data: " + orjson.dumps(self._common)[:-1] + choice
        self.tail = _PLAIN_TAILS[request.chat]
        self.varies = request.continuous_usage or request.prompt_ids is not None

    def opening(self) -> list[bytes]:
        return []

    def first(self) -> list[bytes]:
        if not self._request.chat:
            return []
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        value: dict[str, Any] = self._common | {"choices": [choice]}
        value |= {"prompt_token_ids": self._request.prompt_ids, "prompt_text": None}
        if self._request.continuous_usage:
            value["usage"] = _usage(self._request.prompt_tokens, 0)
        return [_event(value)]

    def chunk(self, text: bytes, tokens: int, ids: list[int]) -> bytes:
        return b"%b%b%b" % (self.head, text, self._tail(None, ids, tokens) if self.varies else self.tail)

    def last(self, text: bytes, tokens: int, ids: list[int], reason: str, extras: Extras) -> list[bytes]:
        events = [self.head + text + self._tail(reason, ids, tokens)]
        if self._request.include_usage:
            usage = _usage(self._request.prompt_tokens, tokens)
            value: dict[str, Any] = self._common | {"choices": [], "usage": usage, "system_fingerprint": FINGERPRINT}
            if extras.cached_tokens is not None:
                usage["prompt_tokens_details"] = {"cached_tokens": extras.cached_tokens}
            if extras.timings is not None:
                value["metrics"] = extras.timings
            events.append(_event(value))
        events.append(DONE)
        return events

    def _tail(self, reason: str | None, ids: list[int], tokens: int) -> bytes:
        request = self._request
        token_ids = None if request.prompt_ids is None else ids
        choice: dict[str, Any] = {"logprobs": None, "finish_reason": reason}
        if request.chat:
            # vLLM writes a chat's stop_reason on the last chunk only
            if reason is not None:
                choice["stop_reason"] = None
        else:
            first = request.prompt_ids is not None and tokens == len(ids)
            choice |= {"stop_reason": None, "prompt_token_ids": request.prompt_ids if first else None}
        choice["token_ids"] = token_ids
        rest: dict[str, Any] = {}
        if request.continuous_usage:
            rest["usage"] = _usage(request.prompt_tokens, tokens)
        elif reason is not None and not request.include_usage:
            rest["system_fingerprint"] = FINGERPRINT
        after_choices = b"," + orjson.dumps(rest)[1:] if rest else b"}"
        return (b'"},' if request.chat else b'",') + orjson.dumps(choice)[1:] + b"]" + after_choices + b"\n\n"

    def whole(self, text: str, tokens: int, reason: str, extras: Extras) -> dict[str, Any]:
        request = self._request
        end: dict[str, Any] = {"logprobs": None, "finish_reason": reason, "stop_reason": None, "token_ids": None}
        cached = None if extras.cached_tokens is None else {"cached_tokens": extras.cached_tokens}
        details: dict[str, Any] = {"prompt_tokens_details": cached, "completion_tokens_details": None}
        answer: dict[str, Any] = self._common | {"service_tier": None, "system_fingerprint": FINGERPRINT}
        answer["usage"] = _usage(request.prompt_tokens, tokens) | details
        if request.chat:
            answer["object"] = "chat.completion"
            message: dict[str, Any] = {
                "role": "assistant",
                "content": text,
                "refusal": None,
                "annotations": None,
                "audio": None,
            }
            message |= {"function_call": None, "tool_calls": [], "reasoning": None}
            answer["choices"] = [{"index": 0, "message": message} | end]
            answer |= {"prompt_logprobs": None, "prompt_token_ids": request.prompt_ids, "prompt_text": None}
        else:
            end |= {"prompt_logprobs": None, "prompt_token_ids": request.prompt_ids, "routed_experts": None}
            answer["choices"] = [{"index": 0, "text": text} | end]
            answer["ec_transfer_params"] = None
        return answer | {"kv_transfer_params": None, "metrics": extras.timings}


class TransformersRenderer:
    """Chunks of `transformers serve`: a role chunk at once, usage in an extra empty finish chunk, and no `[DONE]`."""

    varies = False

    def __init__(self, request: Generation, request_id: str, created: int) -> None:
        self._request = request
        self.object_id = request_id
        self._rest: dict[str, Any] = {"created": created, "model": request.name + "@main", "object": "text_completion"}
        if request.chat:
            self._rest |= {"object": "chat.completion.chunk", "system_fingerprint": ""}
        opening = b'"choices":[{"delta":{"content":"' if request.chat else b'"choices":[{"index":0,"text":"'
        self.head = b'data: {"id":' + orjson.dumps(request_id) + b"," + opening
        closing = b'"},"index":0}],' if request.chat else b'"}],'
        self.tail = closing + orjson.dumps(self._rest)[1:] + b"\n\n"

    def opening(self) -> list[bytes]:
        if not self._request.chat:
            return []
        return [self._with({"delta": {"role": "assistant"}, "index": 0})]

    def first(self) -> list[bytes]:
        return []

    def chunk(self, text: bytes, tokens: int, ids: list[int]) -> bytes:  # noqa: ARG002
        return b"%b%b%b" % (self.head, text, self.tail)

    def last(
        self,
        text: bytes,
        tokens: int,
        ids: list[int],
        reason: str,
        extras: Extras,  # noqa: ARG002
    ) -> list[bytes]:
        if self._request.chat:
            end: dict[str, Any] = {"delta": {}, "index": 0, "finish_reason": reason}
        else:
            end = {"finish_reason": reason, "index": 0, "text": ""}
        return [self.chunk(text, tokens, ids), self._with(end, usage=self._usage(tokens))]

    def whole(self, text: str, tokens: int, reason: str, extras: Extras) -> dict[str, Any]:  # noqa: ARG002
        choice: dict[str, Any] = {"finish_reason": reason, "index": 0}
        choice |= {"message": {"role": "assistant", "content": text}} if self._request.chat else {"text": text}
        answer: dict[str, Any] = {"id": self.object_id, "choices": [choice]} | self._rest
        if self._request.chat:
            answer["object"] = "chat.completion"
        return answer | {"usage": self._usage(tokens)}

    def _usage(self, tokens: int) -> dict[str, int]:
        prompt_tokens = self._request.prompt_tokens
        return {"completion_tokens": tokens, "prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + tokens}

    def _with(self, choice: dict[str, Any], **more: object) -> bytes:
        return _event({"id": self.object_id, "choices": [choice]} | self._rest | more)


def model_list(hosting: Hosting, created: int) -> dict[str, Any]:
    """The body of `/v1/models`."""
    permission = {
        "id": "modelperm-51a71a7051a71a70",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    entries = []
    for model in hosting:
        entry = {"object": "model", "created": created, "owned_by": "vllm", "root": model.name, "parent": None}
        entries.append({"id": model.name} | entry | {"max_model_len": model.max_model_len, "permission": [permission]})
        for adapter in model.adapters:
            entry = {"id": adapter} | entry | {"root": adapter, "parent": model.name}
            entries.append(entry | {"max_model_len": None, "permission": [permission]})
    return {"object": "list", "data": entries}


def tokenized(prompt: Iterable[Hashable], max_model_len: int) -> dict[str, Any]:
    """The body of `/tokenize`."""
    tokens = [vocabulary.id_of(token) for token in prompt]
    return {"count": len(tokens), "max_model_len": max_model_len, "tokens": tokens, "token_strs": None}
