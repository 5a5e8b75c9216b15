"""Several models in one server, adapters, and what the prefix cache and drafts look like from outside."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from simulator_client import Client

from fineserve_shapes import cli
from fineserve_shapes.simulator.process import SimulatorProcess
from fineserve_shapes.simulator.vocabulary import words

MODELS = """
[[model]]
name = "small"
adapters = ["small-sql"]
decode-step-ms = 1
prefill-tokens-per-s = 1e6

[[model]]
name = "large"
decode-step-ms = 30
max-model-len = 2048
kv_cache_tokens = 4096

[[model]]
name = "large-chat"
engine = "large"
max-model-len = 1024
"""


def metric(text: str, name: str, model: str) -> float:
    match = re.search(rf'^vllm:{name}\{{engine="0",model_name="{model}"\}} (\S+)$', text, re.MULTILINE)
    assert match is not None
    return float(match[1])


@pytest.fixture
def several(simulate: Callable[..., Client], tmp_path_factory: pytest.TempPathFactory) -> Client:
    path = Path(tmp_path_factory.getbasetemp()) / "models.toml"
    path.write_text(MODELS)
    return simulate(models=path, jitter=0)


def test_every_model_and_adapter_is_listed(several: Client) -> None:
    listed = json.loads(several.get("/v1/models")[1])["data"]
    assert [(model["id"], model["parent"], model["max_model_len"]) for model in listed] == [
        ("small", None, 32_768),
        ("small-sql", "small", None),
        ("large", None, 2048),
        ("large-chat", None, 1024),
    ]


def test_each_model_answers_by_its_name_and_is_counted_by_its_own(several: Client) -> None:
    """An adapter counts as its model; without a name the first model answers; an unknown one is 404 with all names."""
    body = {"prompt": [1, 2], "max_tokens": 4, "stream": True}
    before = several.get("/metrics")[1].decode()
    for name in ("small", "small-sql", "large", "large-chat", None):
        chunks = several.events("/v1/completions", body | {"model": name})
        assert chunks[0]["model"] == (name or "small")
    after = several.get("/metrics")[1].decode()
    gained = [
        metric(after, "generation_tokens_total", name) - metric(before, "generation_tokens_total", name)
        for name in ("small", "large", "large-chat")
    ]
    assert gained == [12, 4, 4]
    status, _, answer = several.post("/v1/completions", body | {"model": "none"})
    assert status == 404
    assert json.loads(answer)["error"]["message"].endswith("Valid aliases: small, small-sql, large, large-chat.")
    assert several.post("/v1/completions", {"model": "large-chat", "prompt": "a", "max_tokens": 1500})[0] == 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "is no TOML"),
        ("a = 1", "has no [[model]] tables"),
        ("[[model]]\nname = 5", "model 1: name must be a text, got 5"),
        ('[[model]]\nname = "a"\nspeed = 5', "model 1: unrecognized arguments: --speed=5"),
        ('[[model]]\nname = "a"\njitter = -1', "argument --jitter: must be at least 0"),
        ('[[model]]\nname = "a"\n[[model]]\nname = "a"', "model 2: two models are called 'a'"),
        ('[[model]]\nname = "a"\nadapters = ["a"]', "two models are called 'a'"),
        ('[[model]]\nname = "a"\nadapters = "b"', "adapters must be a list of names, got 'b'"),
        ('[[model]]\nname = "a"\nengine = "b"', "no model 'b' before it"),
        ('[[model]]\nname = "a"\n[[model]]\nname = "b"\nengine = "a"\njitter = 1', "cannot have 'jitter' of its own"),
    ],
)
def test_a_wrong_models_file_is_one_line(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    assert cli.main(["simulate", "--models", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_models_that_cannot_be_read_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "--models", "no/such.toml"]) == 2
    assert "cannot read no/such.toml: No such file or directory (--models)" in capsys.readouterr().err


def test_cached_tokens_are_in_the_usage_if_asked_for() -> None:
    """A prompt again, and a chat that goes on: the usage and `/metrics` say what was found."""
    usage = {"stream_options": {"include_usage": True}, "max_tokens": 40}
    with SimulatorProcess(decode_step_ms=1, enable_prompt_tokens_details=True, lora_modules="tuned") as simulator:
        client = Client(simulator)

        def cached(path: str, body: dict[str, object]) -> tuple[int, str]:
            *chunks, last, _ = client.events(path, body | usage)
            text = "".join(chunk["choices"][0].get("delta", {}).get("content", "") for chunk in chunks)
            return last["usage"]["prompt_tokens_details"]["cached_tokens"], text

        prompt = {"prompt": list(range(100))}
        assert [cached("/v1/completions", prompt)[0] for _ in range(2)] == [0, 96]
        assert cached("/v1/completions", prompt | {"model": "tuned"})[0] == 96
        turns = [{"role": "user", "content": "a b c d e f g h i j k l"}]
        found, answer = cached("/v1/chat/completions", {"messages": turns})
        assert (found, len(words(answer))) == (0, 40)
        turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": "and now?"}]
        # 16 of the first turn and 39 of its answer were computed: 3 full blocks
        assert cached("/v1/chat/completions", {"messages": turns})[0] == 48
        text = client.get("/metrics")[1].decode()
        assert metric(text, "prefix_cache_hits_total", "simulated") == 96 + 96 + 48
        assert metric(text, "prompt_tokens_cached_total", "simulated") == 96 + 96 + 48
        assert metric(text, "prefix_cache_queries_total", "simulated") == 3 * 100 + 16 + 16 + 44 + 6


def test_drafts_come_several_at_once_and_are_counted() -> None:
    with SimulatorProcess(decode_step_ms=1, draft_tokens=3, draft_acceptance=1) as simulator:
        client = Client(simulator)
        *chunks, _, _ = client.events(
            "/v1/completions", {"prompt": "a", "max_tokens": 41, "stream_options": {"include_usage": True}}
        )
        assert [len(words(chunk["choices"][0]["text"])) for chunk in chunks] == [1] + [4] * 10
        text = client.get("/metrics")[1].decode()
    assert metric(text, "spec_decode_num_drafts_total", "simulated") == 10
    assert metric(text, "spec_decode_num_accepted_tokens_total", "simulated") == 30
    per_place = re.findall(r'accepted_tokens_per_pos_total\{.*position="(\d)"\} (\S+)', text)
    assert per_place == [("0", "10.0"), ("1", "10.0"), ("2", "10.0")]
    assert metric(text, "generation_tokens_total", "simulated") == 41


def test_metrics_move_while_answers_are_written(simulate: Callable[..., Client]) -> None:
    """Tokens and gaps of a stream in progress count before its end; running is 1 meanwhile, and 0 after."""
    client = simulate(ttft_ms=1, itl_ms=20, model="moving")
    sock = client.raw("/v1/completions", {"prompt": "a", "max_tokens": 1000, "stream": True}, "moving")
    seen = b""
    while seen.count(b"data: ") < 10:
        seen += sock.recv(65536)
    text = client.get("/metrics")[1].decode()
    assert metric(text, "num_requests_running", "moving") == 1
    assert metric(text, "generation_tokens_total", "moving") >= 10
    assert metric(text, "inter_token_latency_seconds_count", "moving") >= 9
    sock.close()
