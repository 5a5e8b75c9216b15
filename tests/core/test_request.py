"""A request of the plan becomes a body."""

from __future__ import annotations

import json

from fineserve_shapes.protocol.request import Api, BodyTemplate, body_fields


def test_a_completion_body_is_what_vllm_takes():
    template = BodyTemplate(Api.COMPLETIONS, body_fields("m", backend="vllm", stream=True, ignore_eos=True))
    assert json.loads(template.body(b"[5,6]", 7)) == {
        "model": "m",
        "prompt": [5, 6],
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def test_other_backends_are_not_sent_ignore_eos():
    assert "ignore_eos" not in body_fields("m", backend="openai", stream=True, ignore_eos=True)


def test_a_body_that_is_not_streamed_asks_for_no_stream_options():
    template = BodyTemplate(Api.CHAT, body_fields("m", backend="vllm", stream=False, ignore_eos=False))
    body = json.loads(template.body(b'[{"role":"user","content":"x"}]', 3))
    assert body == {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": False}


def test_extra_fields_override_and_none_takes_away():
    extra = {"temperature": 0, "stream_options": None, "max_tokens": None}
    fields = body_fields("m", backend="vllm", stream=True, ignore_eos=False, extra=extra)
    body = json.loads(BodyTemplate(Api.COMPLETIONS, fields).body(b'"p"', 9))
    assert body == {"model": "m", "prompt": "p", "stream": True, "temperature": 0}
