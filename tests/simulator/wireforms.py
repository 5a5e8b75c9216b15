"""What was captured from vLLM 0.32.0 and `transformers serve` 5.23, and its shape."""

import json
from typing import Any

# fmt: off
VLLM_CHUNK = r'{"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":[{"index":0,"text":"hen","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}'  # noqa: E501
VLLM_LAST = r'{"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":[{"index":0,"text":" std","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}'  # noqa: E501
VLLM_USAGE = r'{"id":"cmpl-98fb6cd2bd0705ab","object":"text_completion","created":1795328387,"model":"tiny","choices":[],"usage":{"prompt_tokens":2,"total_tokens":10,"completion_tokens":8},"system_fingerprint":"vllm-0.32.0-3a22dd85"}'  # noqa: E501
VLLM_CONTINUOUS = r'{"id":"cmpl-957c2b7820963cf3","object":"text_completion","created":1795328388,"model":"tiny","choices":[{"index":0,"text":"TYPE","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"usage":{"prompt_tokens":4,"total_tokens":5,"completion_tokens":1}}'  # noqa: E501
VLLM_LAST_WITHOUT_USAGE = r'{"id":"cmpl-af8ca9a3bd9414fa","object":"text_completion","created":1795328472,"model":"tiny","choices":[{"index":0,"text":"crement","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-3a22dd85"}'  # noqa: E501
VLLM_TOKEN_IDS = r'{"id":"cmpl-8b56231181686a38","object":"text_completion","created":1795328424,"model":"tiny","choices":[{"index":0,"text":" keep","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":[767,580],"token_ids":[3304]}]}'  # noqa: E501
VLLM_ROLE = r'{"id":"chatcmpl-80f351e65e79380f","object":"chat.completion.chunk","created":1795328388,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}'  # noqa: E501
VLLM_CHAT = r'{"id":"chatcmpl-80f351e65e79380f","object":"chat.completion.chunk","created":1795328388,"model":"tiny","choices":[{"index":0,"delta":{"content":" remo"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'  # noqa: E501
VLLM_CHAT_LAST = r'{"id":"chatcmpl-8e796e9f9599f53e","object":"chat.completion.chunk","created":1795328473,"model":"tiny","choices":[{"index":0,"delta":{"content":"ugh"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-3a22dd85"}'  # noqa: E501
VLLM_METRICS_USAGE = r'{"id":"cmpl-b54ddc9671da7477","object":"text_completion","created":1795328644,"model":"tiny","choices":[],"usage":{"prompt_tokens":2,"total_tokens":14,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":"vllm-0.32.0-334ccd53","metrics":{"time_to_first_token_ms":37.34902199994394,"generation_time_ms":62.60196800008089,"queue_time_ms":0.04450599999472615,"mean_itl_ms":5.691088000007353,"tokens_per_second":120.05884083786482}}'  # noqa: E501
VLLM_WHOLE = r'{"id":"cmpl-adb60b4261037914","object":"text_completion","created":1795328388,"model":"tiny","choices":[{"index":0,"text":":","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-3a22dd85","usage":{"prompt_tokens":2,"total_tokens":10,"completion_tokens":8,"prompt_tokens_details":null,"completion_tokens_details":null},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'  # noqa: E501
HF_CHUNK = r'{"id":"0bf59d87-7675-49bd-b543-df6411f1cfae","choices":[{"index":0,"text":"ri"}],"created":1795328088,"model":"/opt/models1/tiny@main","object":"text_completion"}'  # noqa: E501
HF_FINISH = r'{"id":"0bf59d87-7675-49bd-b543-df6411f1cfae","choices":[{"finish_reason":"length","index":0,"text":""}],"created":1795328088,"model":"/opt/models1/tiny@main","object":"text_completion","usage":{"completion_tokens":8,"prompt_tokens":2,"total_tokens":10}}'  # noqa: E501
HF_ROLE = r'{"id":"73af389c-bcc6-4751-b6cf-9bb480bcbf1d","choices":[{"delta":{"role":"assistant"},"index":0}],"created":1795328090,"model":"/opt/models1/tiny@main","object":"chat.completion.chunk","system_fingerprint":""}'  # noqa: E501
HF_CHAT = r'{"id":"73af389c-bcc6-4751-b6cf-9bb480bcbf1d","choices":[{"delta":{"content":"eof"},"index":0}],"created":1795328090,"model":"/opt/models1/tiny@main","object":"chat.completion.chunk","system_fingerprint":""}'  # noqa: E501
HF_CHAT_FINISH = r'{"id":"73af389c-bcc6-4751-b6cf-9bb480bcbf1d","choices":[{"delta":{},"index":0,"finish_reason":"length"}],"created":1795328090,"model":"/opt/models1/tiny@main","object":"chat.completion.chunk","system_fingerprint":"","usage":{"completion_tokens":8,"prompt_tokens":10,"total_tokens":18}}'  # noqa: E501
HF_WHOLE = r'{"id":"0625380f-333d-41bf-9373-15a683a79057","choices":[{"finish_reason":"length","index":0,"text":"x"}],"created":1795328089,"model":"/opt/models1/tiny@main","object":"text_completion","usage":{"completion_tokens":8,"prompt_tokens":2,"total_tokens":10}}'  # noqa: E501
# fmt: on


def shape(value: Any) -> Any:
    """Keys, in order, and types; what varies from answer to answer is left out."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def shape_of(captured: str) -> Any:
    return shape(json.loads(captured))


COMPLETION = {"model": "tiny", "prompt": "import os", "max_tokens": 8, "ignore_eos": True}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "ignore_eos": True}
USAGE = {"stream_options": {"include_usage": True}}
