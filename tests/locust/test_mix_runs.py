"""A mix in real processes: each stream is sent and measured as if it were alone, and the sums are the run's."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, Finished, cluster, free_port, outcomes, run_locust, summary_of, truth, write_trace

from fineserve_shapes.outcome import OUTCOMES
from fineserve_shapes.shipped import SAMPLE_MIX
from fineserve_shapes.simulator.process import SimulatorProcess

MIX = ROOT / "locustfiles" / "mix.py"

MODELS = """
[[model]]
name = "fast"
ttft-ms = 20
itl-ms = 5
[[model]]
name = "slow"
ttft-ms = 150
itl-ms = 30
"""

STREAMS = """
[defaults]
input_length = 30
output_length = 6

[streams.bursts]
kind = "replay"
request_trace_csv = "trace.csv"
model = "fast"
slo = "ttft=100ms"
{host}

[streams.steady]
kind = "poisson"
request_rate = 25
cv = 0
num_prompts = 75
model = "slow"
slo = "ttft=100ms"

[streams.late]
kind = "poisson"
request_rate = 10
cv = 0.5
output_length = 3
num_prompts = 20
model = "slow"
"""


def written(folder: Path, host: str = "") -> Path:
    write_trace(folder / "trace.csv", [0.5 * (number // 10) for number in range(50)], input_tokens=11, output_tokens=4)
    path = folder / "mix.toml"
    path.write_text(STREAMS.format(host=host))
    return path


def received(path: Path, run: str) -> dict[str, list[dict[str, Any]]]:
    """What the simulator got, by the stream in the request's id, in the order of positions."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in truth(path):
        owner, stream, position = row["request_id"].split("-")
        assert owner == run
        found.setdefault(stream, []).append(row | {"position": int(position)})
    return {stream: sorted(rows, key=lambda row: int(row["position"])) for stream, rows in found.items()}


def test_each_stream_is_sent_and_measured_as_its_own(tmp_path: Path):
    """One process and two workers send the same; every sum of the streams is the run's."""
    (tmp_path / "models.toml").write_text(MODELS)
    mix = written(tmp_path)
    sent = []
    for workers in (0, 2):
        out, told = tmp_path / f"summary{workers}.json", tmp_path / f"truth{workers}.jsonl"
        with SimulatorProcess(models=tmp_path / "models.toml", ground_truth=told) as simulator:
            arguments = ["--mix", mix, "--host", simulator.url, "--output-file", out, "--csv", tmp_path / f"c{workers}"]
            done = _run(tmp_path, workers, arguments)
        assert done.code == 0, done.output
        summary = summary_of(out)
        streams = summary["streams"]
        assert list(streams) == ["bursts", "steady", "late"]
        assert outcomes(summary) == {"ok": 145}
        for outcome in ("planned", *OUTCOMES):
            assert sum(stream["ledger"][outcome] for stream in streams.values()) == summary["ledger"][outcome]
        for name in ("completed", "total_input_tokens", "total_output_tokens"):
            assert sum(stream[name] for stream in streams.values()) == summary[name]
        got = received(told, summary["run"])
        assert {name: len(rows) for name, rows in got.items()} == {"bursts": 50, "steady": 75, "late": 20}
        assert {(name, row["model"]) for name, rows in got.items() for row in rows} == {
            ("bursts", "fast"), ("steady", "slow"), ("late", "slow")
        }  # fmt: skip
        assert all([row["position"] for row in rows] == list(range(len(rows))) for rows in got.values())
        lengths = {
            name: Counter((row["prompt_tokens"], row["max_tokens"]) for row in rows) for name, rows in got.items()
        }
        assert lengths == {"bursts": {(11, 4): 50}, "steady": {(30, 6): 75}, "late": {(30, 3): 20}}
        assert streams["bursts"]["median_ttft_ms"] < 100 < streams["steady"]["median_ttft_ms"]
        assert streams["bursts"]["goodput"]["good"] > 40
        assert streams["steady"]["goodput"]["good"] == 0
        assert streams["late"]["goodput"] is None
        assert (summary["goodput"]["of"], summary["goodput"]["slo"]) == (125, None)
        _asked_is_delivered(streams)
        for row in ("bursts", "steady", "late"):
            assert f"{row} /v1/completions" in (tmp_path / f"c{workers}_stats.csv").read_text()
        sent.append((summary["plan"]["fingerprint"], lengths))
    assert sent[0] == sent[1]


def _run(folder: Path, workers: int, arguments: list[object]) -> Finished:
    if not workers:
        return run_locust(folder, *arguments, file=MIX)
    with cluster(folder) as locust:
        master = locust.master("--headless", "--only-summary", "--expect-workers", workers, *arguments, file=MIX)
        for _ in range(workers):
            locust.worker()
        return locust.wait(master)


def _asked_is_delivered(streams: dict[str, Any]) -> None:
    """By each stream's own account."""
    for stream in streams.values():
        asked, delivered = stream["fidelity"]["asked"], stream["fidelity"]["delivered"]
        assert delivered["requests"] == asked["requests"]
        assert delivered["rate_rps"] == pytest.approx(asked["rate_rps"], rel=0.05)
        for width, wanted in asked["dispersion"].items():
            if wanted is not None:
                assert delivered["dispersion"][width] == pytest.approx(wanted, abs=0.2 * max(wanted, 1.0))
    assert streams["steady"]["fidelity"]["asked"]["rate_rps"] == pytest.approx(25, rel=0.03)
    assert streams["steady"]["fidelity"]["asked"]["gap_cv"] == pytest.approx(0, abs=1e-6)
    assert streams["bursts"]["fidelity"]["asked"]["gap_cv"] == pytest.approx(3.35, rel=0.1)


def test_a_stream_whose_server_is_down_fails_alone(tmp_path: Path):
    (tmp_path / "models.toml").write_text(MODELS)
    mix = written(tmp_path, f'host = "http://127.0.0.1:{free_port()}"\nskip_preflight = true')
    out = tmp_path / "summary.json"
    with SimulatorProcess(models=tmp_path / "models.toml") as simulator:
        done = run_locust(tmp_path, "--mix", mix, "--host", simulator.url, "--output-file", out, file=MIX)
    assert done.code == 1, done.output
    streams = summary_of(out)["streams"]
    assert outcomes(streams["bursts"]) == {"connect_error": 50}
    assert outcomes(streams["steady"]) == {"ok": 75}
    assert outcomes(streams["late"]) == {"ok": 20}
    assert streams["bursts"]["completed"] == 0
    assert [error["requests"] for error in streams["bursts"]["errors"]] == [50]
    assert not streams["steady"]["errors"]
    assert streams["steady"]["median_ttft_ms"] == pytest.approx(150, abs=30)
    assert streams["steady"]["fidelity"]["lag_p50_ms"] < 20
    assert not any("connect" in reason for reason in streams["steady"]["fidelity"]["reasons"])
    _asked_is_delivered(streams)


def test_a_server_that_is_not_there_is_said_with_the_streams_name(tmp_path: Path):
    port = free_port()
    mix = written(tmp_path, f'host = "http://127.0.0.1:{port}"')
    done = run_locust(tmp_path, "--mix", mix, "--host", f"http://127.0.0.1:{port}", file=MIX)
    assert done.code == 2
    assert done.output.rstrip().splitlines()[-1] == (
        f"locust: error: stream bursts: cannot reach http://127.0.0.1:{port}: connection refused (--host)"
    )


def test_the_requests_of_a_stream_are_divided_among_its_hosts(tmp_path: Path):
    """In turn: by their positions, so that every run divides them alike."""
    tables = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    with SimulatorProcess(ground_truth=tables[0]) as a, SimulatorProcess(ground_truth=tables[1]) as b:
        (tmp_path / "mix.toml").write_text(f"""
            [streams.two]
            kind = "poisson"
            request_rate = 40
            num_prompts = 40
            input_length = 9
            output_length = 2
            host = ["{a.url}", "{b.url}"]
        """)
        done = run_locust(tmp_path, "--mix", tmp_path / "mix.toml", file=MIX)
    assert done.code == 0, done.output
    positions = [sorted(int(row["request_id"].rpartition("-")[2]) for row in truth(path)) for path in tables]
    assert positions == [list(range(0, 40, 2)), list(range(1, 40, 2))]


def test_requests_with_the_same_beginning_can_go_to_the_same_host(tmp_path: Path):
    tables = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    with SimulatorProcess(ground_truth=tables[0]) as a, SimulatorProcess(ground_truth=tables[1]) as b:
        done = run_locust(
            tmp_path, "--host", f"{a.url},{b.url}", "--routing", "prefix", "--request-rate", "40", "--num-prompts", "40",
            "--input-length", "64", "--output-length", "2", "--prefix-share", "1", "--prefix-length", "32",
            "--prefix-groups", "4", "--backend", "openai", file=ROOT / "locustfiles" / "poisson.py",
        )  # fmt: skip
    assert done.code == 0, done.output
    assert sorted(len(truth(path)) > 5 for path in tables) == [True, True]
    assert sum(len(truth(path)) for path in tables) == 40


TWO_CLASSES = """
from fineserve_shapes.shapes import MixShape, Stream
from fineserve_shapes.users import ChatUser, CompletionUser

COMMON = {"kind": "poisson", "request_rate": 20, "num_prompts": 10, "input_length": 12, "output_length": 3}

class Mix(MixShape):
    streams = (Stream("talk", user="Chat", own=COMMON), Stream("fill", user="Completions", own=COMMON))

class Chat(ChatUser):
    def headers(self):
        return super().headers() | {"X-Stream": self.stream.name}

class Completions(CompletionUser):
    pass
"""


def test_each_stream_may_have_its_own_user_class_in_a_mix_written_in_python(tmp_path: Path):
    """Without a host the simulator stands in, with a model for each."""
    (tmp_path / "two.py").write_text(TWO_CLASSES)
    out = tmp_path / "summary.json"
    done = run_locust(tmp_path, "--output-file", out, "--csv", tmp_path / "t", file=tmp_path / "two.py")
    assert done.code == 0, done.output
    summary = summary_of(out)
    assert summary["model"] == "talk, fill"
    assert {name: outcomes(stream) for name, stream in summary["streams"].items()} == {
        "talk": {"ok": 10}, "fill": {"ok": 10}
    }  # fmt: skip
    table = (tmp_path / "t_stats.csv").read_text()
    assert "talk /v1/chat/completions" in table
    assert "fill /v1/completions" in table


def test_the_four_classes_against_four_servers_each_get_their_own_load(tmp_path: Path):
    """Rate, burstiness and lengths of each are those of its own plan, whatever the others do."""
    tables = [tmp_path / f"truth{number}.jsonl" for number in range(4)]
    text, out = SAMPLE_MIX.read_text(), tmp_path / "summary.json"
    with ExitStack() as stack:
        servers = [
            stack.enter_context(SimulatorProcess(ttft_ms=10 * (number + 1), itl_ms=1, ground_truth=path))
            for number, path in enumerate(tables)
        ]
        for server in servers:
            text = text.replace("\npreset = ", f'\nhost = "{server.url}"\n# ', 1)
        (tmp_path / "mix.toml").write_text(text)
        done = run_locust(tmp_path, "--mix", tmp_path / "mix.toml", "-t", "12s", "--output-file", out, file=MIX)
    assert done.code == 0, done.output
    summary = summary_of(out)
    assert list(summary["streams"]) == ["small", "medium", "large", "experts"]
    assert outcomes(summary) == {"ok": summary["ledger"]["planned"]}
    for (name, stream), path in zip(summary["streams"].items(), tables, strict=True):
        rows = received(path, summary["run"])
        assert list(rows) == [name]
        assert len(rows[name]) == stream["ledger"]["planned"] == stream["ledger"]["ok"] > 3
        asked, delivered = stream["fidelity"]["asked"], stream["fidelity"]["delivered"]
        assert delivered["requests"] == asked["requests"]
        assert delivered["rate_rps"] == pytest.approx(asked["rate_rps"], rel=0.05)
        assert delivered["gap_cv"] == pytest.approx(asked["gap_cv"], rel=0.1)
        assert sum(row["max_tokens"] for row in rows[name]) == stream["total_output_tokens"]
        assert sum(row["prompt_tokens"] for row in rows[name]) == stream["total_input_tokens"]
    shares = [stream["ledger"]["planned"] for stream in summary["streams"].values()]
    assert shares[0] == max(shares)
