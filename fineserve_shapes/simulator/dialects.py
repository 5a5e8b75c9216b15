"""What other servers, gateways and proxies write in a stream though nothing is wrong: each bends the events of vLLM's."""

from collections.abc import Mapping
from typing import Any

import orjson

from fineserve_shapes.simulator.answers import StreamAnswer
from fineserve_shapes.simulator.rendering import DONE, ENGINE_DEAD

HEARTBEAT_S = 0.1
_PREFIX, _SUFFIX = b"data: ", b"\n\n"

Payload = dict[str, Any]


class Edited(StreamAnswer):
    """Events are changed one by one before they are framed: `edit` sees payloads, `done` what stands for `[DONE]`."""

    done: bytes = DONE

    def frame(self, event: bytes) -> bytes:
        if event == DONE:
            return super().frame(self.done) if self.done else b""
        payload = orjson.loads(event.removeprefix(_PREFIX))
        self.edit(payload)
        return super().frame(self.write_event(payload))

    def edit(self, payload: Payload) -> None:
        """Change a payload in place."""

    def write_event(self, payload: Payload) -> bytes:
        return _PREFIX + orjson.dumps(payload) + _SUFFIX

    def usage(self, completion_tokens: int, prompt_tokens: int | None = None) -> Payload:
        prompt = self.request.prompt_tokens if prompt_tokens is None else prompt_tokens
        total = prompt + completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion_tokens, "total_tokens": total}


class UsageZeros(Edited):
    """Usage on every chunk, of zeros until the last."""

    def edit(self, payload: Payload) -> None:
        if payload["choices"]:
            payload["usage"] = self.usage(0, 0)


class UsagePromptOnly(Edited):
    """Usage on every chunk, of the prompt alone until the last."""

    def edit(self, payload: Payload) -> None:
        if payload["choices"]:
            payload["usage"] = self.usage(0)


class UsageOnes(Edited):
    """Usage on every chunk, of that chunk's token and not of all so far."""

    def edit(self, payload: Payload) -> None:
        if payload["choices"]:
            payload["usage"] = self.usage(1)


class UsageFinalZero(Edited):
    """The final usage says 0 after tokens came."""

    def edit(self, payload: Payload) -> None:
        if not payload["choices"]:
            payload["usage"] = self.usage(0)


class UsageRenamed(Edited):
    """Usage under the names `input_tokens` and `output_tokens`."""

    def edit(self, payload: Payload) -> None:
        if "usage" in payload:
            usage = payload["usage"]
            payload["usage"] = {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
                "total_tokens": usage["total_tokens"],
            }


class UsagePerChoice(Edited):
    """Usage inside the choice, and no usage chunk."""

    def edit(self, payload: Payload) -> None:
        if payload["choices"]:
            payload["choices"][0]["usage"] = self.usage(self.tokens + 1)
        payload.pop("usage", None)


class FinishEmpty(Edited):
    """`finish_reason` is "" on every chunk that is not the last."""

    placeholder: str = ""

    def edit(self, payload: Payload) -> None:
        for choice in payload["choices"]:
            if choice.get("finish_reason") is None:
                choice["finish_reason"] = self.placeholder


class FinishNullText(FinishEmpty):
    """The same with the text "null"."""

    placeholder = "null"


class FinishNever(Edited):
    """`finish_reason` is null to the end, `[DONE]` comes."""

    def edit(self, payload: Payload) -> None:
        for choice in payload["choices"]:
            choice["finish_reason"] = None


class IndexByPosition(Edited):
    """Choices are numbered by their position in the stream, though one was asked for."""

    position = 0

    def edit(self, payload: Payload) -> None:
        for choice in payload["choices"]:
            choice["index"] = self.position
            self.position += 1


class DoneBlank(Edited):
    """A blank behind `[DONE]`."""

    done = b"data: [DONE] \n\n"


class DoneQuoted(Edited):
    """`[DONE]` in quotes."""

    done = b'data: "[DONE]"\n\n'


class NoDone(Edited):
    """No `[DONE]`."""

    done = b""


class ErrorAfterFinish(Edited):
    """An error event after the finish_reason, before `[DONE]`."""

    def frame(self, event: bytes) -> bytes:
        return StreamAnswer.frame(self, ENGINE_DEAD + event) if event == DONE else super().frame(event)


class NoBlank(Edited):
    """No blank behind `data:`."""

    done = b"data:[DONE]\n\n"

    def write_event(self, payload: Payload) -> bytes:
        return b"data:" + orjson.dumps(payload) + _SUFFIX


class Fields(Edited):
    """`event:`, `id:` and `retry:` lines, and comments between."""

    events = 0

    def write_event(self, payload: Payload) -> bytes:
        self.events += 1
        head = b": ping\nretry: 3000\nevent: message\nid: %d\n" % self.events
        return head + super().write_event(payload)


class BareCr(Edited):
    """Lines end in CR."""

    done = DONE.replace(b"\n", b"\r")

    def write_event(self, payload: Payload) -> bytes:
        return super().write_event(payload).replace(b"\n", b"\r")


class FilterFrame(Edited):
    """First a frame without choices, of a content filter's results, as Azure sends."""

    def begin(self) -> None:
        results = {"hate": {"filtered": False, "severity": "safe"}}
        filters = [{"prompt_index": 0, "content_filter_results": results}]
        super().begin()
        self.write(StreamAnswer.frame(self, self.write_event({"choices": [], "prompt_filter_results": filters})))


class EmptyFirst(Edited):
    """An empty piece at once, long before the first token."""

    def begin(self) -> None:
        super().begin()
        self.write(self.empty_piece())

    def empty_piece(self) -> bytes:
        return self.frame(self.renderer.chunk(b"", 0, []))


class Heartbeats(EmptyFirst):
    """Empty pieces every HEARTBEAT_S while the prompt is read."""

    def begin(self) -> None:
        super().begin()
        self.service.loop.call_later(HEARTBEAT_S, self._beat)

    def _beat(self) -> None:
        if self.open and not self.tokens:
            self.write(self.empty_piece())
            self.service.loop.call_later(HEARTBEAT_S, self._beat)


class Reasoning(Edited):
    """The first half of a chat's answer is reasoning, in a field of its own."""

    field: str = "reasoning_content"

    def edit(self, payload: Payload) -> None:
        for choice in payload["choices"]:
            delta = choice.get("delta", {})
            if "role" not in delta and 2 * self.tokens < self.total:
                delta[self.field] = delta.pop("content", "")


class ReasoningNewer(Reasoning):
    """The same under the newer name of the field."""

    field = "reasoning"


DIALECTS: Mapping[str, type[StreamAnswer]] = {
    "usage_zeros": UsageZeros,
    "usage_prompt_only": UsagePromptOnly,
    "usage_ones": UsageOnes,
    "usage_final_zero": UsageFinalZero,
    "usage_renamed": UsageRenamed,
    "usage_per_choice": UsagePerChoice,
    "finish_empty": FinishEmpty,
    "finish_null_text": FinishNullText,
    "finish_never": FinishNever,
    "index_by_position": IndexByPosition,
    "done_blank": DoneBlank,
    "done_quoted": DoneQuoted,
    "no_done": NoDone,
    "error_after_finish": ErrorAfterFinish,
    "no_blank": NoBlank,
    "fields": Fields,
    "bare_cr": BareCr,
    "filter_frame": FilterFrame,
    "empty_first": EmptyFirst,
    "heartbeats": Heartbeats,
    "reasoning_content": Reasoning,
    "reasoning": ReasoningNewer,
}
