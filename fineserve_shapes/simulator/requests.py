"""What a client asks for: JSON bodies to values, or the refusal that the real server would send."""

from array import array
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import orjson

from fineserve_shapes.simulator import vocabulary
from fineserve_shapes.simulator.hosting import HostedModel, Hosting

DEFAULT_MAX_TOKENS = 16  # of completions; a chat may fill the context


class Generation(NamedTuple):
    """A valid request for an answer."""

    chat: bool
    model: HostedModel
    name: str  # by which it was asked for
    prompt: Sequence[Hashable]  # its tokens: ids, or words
    prompt_tokens: int
    prefill_tokens: int  # what the engine computes of them: all but where a prompt beyond the context is let in
    prompt_ids: tuple[int, ...] | None  # only if the client wants them back
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool


class Refusal(Exception):
    """The request is answered with an error. `in_stream`: after status 200, as an event of the stream."""

    def __init__(self, status: int, body: dict[str, Any], *, in_stream: bool = False) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.in_stream = in_stream


def vllm_error(status: int, kind: str, message: str, param: str | None = None) -> Refusal:
    return Refusal(status, {"error": {"message": message, "type": kind, "param": param, "code": status}})


def _bad(message: str, param: str | None = None, value: object = None) -> Refusal:
    if param is not None:
        message += f" (parameter={param}" + (f", value={value})" if value is not None else ")")
    return vllm_error(400, "BadRequestError", message, param)


def load_object(body: bytes, *, transformers: bool) -> dict[str, Any]:
    """The JSON object of a body, or the server's way to say that it is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if transformers:
            detail = {"type": "json_invalid", "loc": ["body", error.pos], "msg": "JSON decode error", "input": {}}
            raise Refusal(422, {"detail": [detail | {"ctx": {"error": error.msg}}]}) from None
        raise vllm_error(
            400,
            "Bad Request",
            f"1 validation error:\n  JSON decode error at {error.pos}: {error.msg}",
            f"body.{error.pos}",
        ) from None
    if isinstance(value, dict):
        return value
    if transformers:
        raise Refusal(
            422, {"detail": [{"type": "dict_type", "loc": ["body"], "msg": "Input should be a valid dictionary"}]}
        )
    raise vllm_error(400, "Bad Request", "1 validation error:\n  Input should be a valid dictionary", "body")


def _integer(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise vllm_error(
        400,
        "Bad Request",
        f"1 validation error:\n  {{'type': 'int_parsing', 'loc': 'body.{name}', "
        f"'msg': 'Input should be a valid integer', 'input': {value!r:.100}}}",
        f"body.{name}",
    )


def message_texts(messages: object) -> list[str]:
    """The text of each message of a chat; text parts are joined, other parts count nothing."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise vllm_error(400, "Bad Request", "1 validation error:\n  Input should be a valid list", "body.messages")
    if not messages:
        raise _bad("Cannot apply chat template to an empty conversation. Provide at least one message.")
    texts = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            content = " ".join(part for part in parts if isinstance(part, str))
        texts.append(content if isinstance(content, str) else "")
    return texts


def prompt_of(fields: dict[str, Any]) -> Sequence[Hashable]:
    """The tokens of a completion's prompt: words of a text (one of a text without words), or ids."""
    prompt = fields.get("prompt")
    if prompt is None or prompt in ("", []):
        raise _bad("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, str):
        return vocabulary.words(prompt) or [b""]
    if isinstance(prompt, list) and set(map(type, prompt)) == {int}:
        if min(prompt) < 0 or max(prompt) >= 1 << 31:
            raise _bad(f"Token id {next(item for item in prompt if not 0 <= item < 1 << 31)} is out of vocabulary")
        return array("i", prompt)  # a tenth of the memory, for as long as the answer lasts
    raise _bad("The simulator answers one prompt per request: a string or one list of token ids.", "prompt")


def parse_vllm(body: bytes, *, chat: bool, hosting: Hosting) -> Generation:
    """A request as vLLM reads it: unknown fields are ignored.

    Raises
    ------
    Refusal
        With vLLM's status and body, its texts in the cases that were captured from it.
    """
    fields = load_object(body, transformers=False)
    max_tokens = _integer(fields, "max_tokens")
    if chat:
        newer = _integer(fields, "max_completion_tokens")
        max_tokens = max_tokens if newer is None else newer
    min_tokens = _integer(fields, "min_tokens") or 0
    model = hosting.find(fields.get("model"))
    if model is None:
        # as vLLM: the alias is echoed
        message = f"The model `{fields['model']!s:.200}` does not exist. Valid aliases: {', '.join(hosting.names)}."
        raise vllm_error(404, "NotFoundError", message, "model")
    max_model_len = model.max_model_len
    options = fields.get("stream_options")
    stream = bool(fields.get("stream"))
    if options is not None and not stream:
        raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    if not isinstance(options, dict):
        options = {}
    if _integer(fields, "n") not in (None, 1):
        raise _bad("The simulator gives one choice per request.", "n", fields["n"])
    if max_tokens is not None and max_tokens < 1:
        raise _bad(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if max_tokens is not None and max_tokens > max_model_len:
        raise _bad(
            f"max_tokens={max_tokens} cannot be greater than max_model_len={max_model_len}. "
            "Please request fewer output tokens.",
            "max_tokens",
            max_tokens,
        )
    prompt = vocabulary.chat_tokens(message_texts(fields.get("messages"))) if chat else prompt_of(fields)
    prompt_tokens = len(prompt)
    context = f"This model's maximum context length is {max_model_len} tokens. However, "
    if prompt_tokens >= max_model_len:
        raise _bad(
            f"{context}your prompt contains at least {prompt_tokens} input tokens, which exceeds this limit even "
            "without any output tokens. Please reduce the length of the input prompt.",
            "input_tokens",
            prompt_tokens,
        )
    if max_tokens is None:
        room = max_model_len - prompt_tokens
        max_tokens = room if chat else min(room, DEFAULT_MAX_TOKENS)
    if prompt_tokens + max_tokens > max_model_len:
        raise _bad(
            f"{context}you requested {max_tokens} output tokens and your prompt contains at least {prompt_tokens} "
            f"input tokens, for a total of at least {prompt_tokens + max_tokens} tokens. Please reduce the length of "
            "the input prompt or the number of requested output tokens.",
            "input_tokens",
            prompt_tokens,
        )
    if min_tokens > max_tokens:
        raise _bad(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")
    prompt_ids = None
    if fields.get("return_token_ids"):
        prompt_ids = tuple(vocabulary.id_of(token) for token in prompt)
    return Generation(
        chat=chat,
        model=model,
        name=fields.get("model") or model.name,
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        prefill_tokens=prompt_tokens,
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(fields.get("ignore_eos")),
        stream=stream,
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
    )


# what `transformers serve` was seen to know, and what OpenAI clients commonly send
_TRANSFORMERS_FIELDS_TEXT = """
model prompt messages max_tokens max_completion_tokens stream stream_options temperature top_p n stop seed logprobs echo
suffix best_of user frequency_penalty presence_penalty logit_bias tools tool_choice response_format generation_config
"""
_TRANSFORMERS_FIELDS = frozenset(_TRANSFORMERS_FIELDS_TEXT.split())


def parse_transformers(body: bytes, *, chat: bool, hosting: Hosting) -> Generation:
    """A request as `transformers serve` reads it: strict about fields, careless about lengths.

    A prompt beyond the model's context is answered all the same (it counts in full, the engine computes what fits).

    Raises
    ------
    Refusal
        With that server's status and body.
    """
    fields = load_object(body, transformers=True)
    unexpected = sorted(fields.keys() - _TRANSFORMERS_FIELDS)
    if unexpected:
        raise Refusal(422, {"detail": "Unexpected fields in the request: {" + ", ".join(map(repr, unexpected)) + "}"})
    model = hosting.find(fields.get("model"))
    if model is None:
        pinned = hosting.first.name
        raise Refusal(400, {"detail": f"Server is pinned to {pinned!r}; requested {fields['model']!r:.200}."})
    if chat:
        try:
            prompt: Sequence[Hashable] = vocabulary.chat_tokens(message_texts(fields.get("messages")))
        except Refusal:
            raise Refusal(422, {"detail": "messages must be a list with at least one message."}) from None
    else:
        if not isinstance(fields.get("prompt"), str):
            raise Refusal(400, {"detail": "prompt must be a string."})
        prompt = vocabulary.words(fields["prompt"]) or [b""]
    prompt_tokens = len(prompt)
    stream = bool(fields.get("stream"))
    max_tokens = fields.get("max_completion_tokens" if chat else "max_tokens", fields.get("max_tokens"))
    if max_tokens is None:
        max_tokens = DEFAULT_MAX_TOKENS
    if type(max_tokens) is not int:
        raise Refusal(422, {"detail": f"max_tokens must be an integer, got {max_tokens!r:.100}"})
    if max_tokens < 1:
        message = f"`max_new_tokens` must be greater than 0, but is {max_tokens}."
        raise Refusal(200, {"error": message}, in_stream=True) if stream else Refusal(500, {"error": message})
    max_tokens = min(max_tokens, model.max_model_len - 1)
    return Generation(
        chat=chat,
        model=model,
        name=model.name,
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        prefill_tokens=min(prompt_tokens, model.max_model_len - max_tokens),
        prompt_ids=None,
        max_tokens=max_tokens,
        min_tokens=0,
        ignore_eos=False,
        stream=stream,
        include_usage=True,
        continuous_usage=False,
    )
