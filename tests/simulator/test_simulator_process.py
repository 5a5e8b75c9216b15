"""The command and its process: the ground-truth log, the ways to end, bad flags, and the helper that starts it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from simulator_client import Client

from fineserve_shapes import cli
from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.process import SimulatorProcess


def read_log(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["request_id"] for line in lines}) == len(lines)
    return {line["request_id"]: line for line in lines}


def read_to_their_ends(socks: list[socket.socket]) -> None:
    for sock in socks:
        data = b""
        while b"[DONE]" not in data:
            data += sock.recv(65536)
        sock.close()


def test_the_log_has_every_request_and_the_time_of_every_chunk(tmp_path: Path) -> None:
    """Good, refused, gone and unfinished: each has its line, in the clock of this process."""
    log = tmp_path / "truth.jsonl"
    before_s = time.perf_counter()
    with SimulatorProcess(ttft_ms=30, itl_ms=10, ground_truth=log, fault="stall=0.0") as simulator:
        client = Client(simulator)
        client.events("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 5}, X_Request_Id="good")
        client.post("/v1/completions", {"prompt": "a b", "max_tokens": 3}, X_Request_Id="whole")
        client.post("/v1/completions", {"prompt": "a", "max_tokens": 0}, X_Request_Id="refused")
        gone = client.raw("/v1/completions", {"prompt": "a", "max_tokens": 900, "stream": True}, "gone")
        gone.recv(10)
        gone.close()
        unfinished = client.raw("/v1/completions", {"prompt": "a", "max_tokens": 900, "stream": True}, "unfinished")
        unfinished.recv(10)
    unfinished.close()
    after_s = time.perf_counter()
    assert simulator.returncode == 0
    lines = read_log(log)
    assert lines.keys() == {"good", "whole", "refused", "gone", "unfinished"}
    good = lines["good"]
    assert before_s < good["received_s"] < after_s
    expected_s = [good["received_s"] + 0.03 + 0.01 * k for k in range(5)]
    assert good["chunk_due_s"] == pytest.approx(expected_s, abs=1e-9)
    late_s = [written - due for written, due in zip(good["chunk_written_s"], good["chunk_due_s"], strict=True)]
    assert all(late >= 0.0 for late in late_s)
    assert {key: good[key] for key in ("prompt_tokens", "max_tokens", "output_tokens", "status")} == {
        "prompt_tokens": 3,
        "max_tokens": 5,
        "output_tokens": 5,
        "status": 200,
    }
    assert (good["finish_reason"], good["aborted"], good["fault"]) == ("length", False, None)
    assert len(lines["whole"]["chunk_written_s"]) == 1
    assert (lines["refused"]["status"], lines["refused"]["output_tokens"]) == (400, 0)
    assert [lines[name]["aborted"] for name in ("gone", "unfinished")] == [True, True]


def test_chunks_are_written_when_they_are_due(tmp_path: Path) -> None:
    """50 streams of 20 tokens: none early, and half of them within 5 ms, on a machine that others use too."""
    log = tmp_path / "truth.jsonl"
    with SimulatorProcess(ttft_ms=50, itl_ms=7, ground_truth=log) as simulator:
        client = Client(simulator)
        body = {"prompt": "a", "max_tokens": 20, "stream": True}
        socks = [client.raw("/v1/completions", body, f"r{number}") for number in range(50)]
        read_to_their_ends(socks)
    late_s = sorted(
        written - due
        for line in read_log(log).values()
        for written, due in zip(line["chunk_written_s"], line["chunk_due_s"], strict=True)
    )
    assert len(late_s) == 1000
    assert late_s[0] >= 0.0
    assert late_s[500] < 5e-3


def test_the_batching_engine_queues_what_does_not_fit(tmp_path: Path) -> None:
    """Two sequences at once, four requests: the last two get their first token after the first two ended."""
    log = tmp_path / "truth.jsonl"
    with SimulatorProcess(max_num_seqs=2, decode_step_ms=5, ground_truth=log) as simulator:
        client = Client(simulator)
        body = {"prompt": "a", "max_tokens": 10, "stream": True}
        socks = [client.raw("/v1/completions", body, f"r{number}") for number in range(4)]
        read_to_their_ends(socks)
    ends_s = sorted(line["chunk_written_s"][-1] for line in read_log(log).values())
    firsts_s = sorted(line["chunk_written_s"][0] for line in read_log(log).values())
    assert firsts_s[2] > ends_s[0]
    assert firsts_s[3] > ends_s[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    simulator = SimulatorProcess(ttft_ms=1, itl_ms=1, ground_truth=tmp_path / "log").start()
    Client(simulator).post("/v1/completions", {"prompt": "a"}, X_Request_Id="one")
    os.kill(simulator.pid, number)
    deadline_s = time.monotonic() + 5
    while simulator.returncode is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert simulator.returncode == 0
    assert read_log(tmp_path / "log").keys() == {"one"}
    simulator.stop()


def test_it_does_not_outlive_its_parent() -> None:
    """The parent is killed with -9 while the simulator serves; its port is closed soon after."""
    script = (
        "from fineserve_shapes.simulator.process import SimulatorProcess\n"
        "import time\n"
        "print(SimulatorProcess().start().port, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        parent.kill()
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("the simulator outlived its parent")


def test_the_helper_works_in_a_process_that_gevent_has_patched() -> None:
    """Other greenlets run while it starts."""
    script = (
        "import gevent.monkey; gevent.monkey.patch_all()\n"
        "import gevent, urllib.request\n"
        "ticks = []\n"
        "ticker = gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.005)) for _ in range(1000)])\n"
        "from fineserve_shapes.simulator.process import SimulatorProcess\n"
        "with SimulatorProcess(model='patched') as simulator:\n"
        "    assert len(ticks) > 1, ticks\n"
        "    assert b'patched' in urllib.request.urlopen(simulator.url + '/v1/models').read()\n"
        "assert simulator.returncode == 0\n"
        "print('well')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == (b"well\n", b"")


def test_the_helper_knows_url_and_model_and_stops_twice() -> None:
    simulator = SimulatorProcess(model="a model (of sorts)", per_request_metrics=True, api_key_env=None, jitter=0)
    with pytest.raises(RuntimeError, match="not running"):
        _ = simulator.pid
    with simulator:
        assert simulator.url == f"http://127.0.0.1:{simulator.port}"
        assert simulator.model == "a model (of sorts)"
        assert simulator.returncode is None
    simulator.stop()
    assert simulator.returncode == 0


def test_the_helper_tells_why_a_simulator_did_not_start() -> None:
    with pytest.raises(InputError, match="refused its flags: argument --jitter: must be at least 0"):
        SimulatorProcess(jitter=-1).start()
    with pytest.raises(InputError, match="unknown fault 'rust'"):
        SimulatorProcess(fault="rust=1").start()
    with pytest.raises(RuntimeError, match=r"did not listen within 0\.0 s"):
        SimulatorProcess(start_timeout_s=0.0).start()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "x"], "argument --port: must be a number, got 'x'"),
        (["--port", "70000"], "at most 65535"),
        (["--decode-step-ms", "0"], "must be above 0"),
        (["--jitter", "nan"], "must be at least 0"),
        (["--ttft-ms", "5"], "--ttft-ms and --itl-ms belong together"),
        (["--kv-cache-tokens", "5"], "cannot hold one request"),
        (["--max-num-seqs", "9", "--max-num-batched-tokens", "3"], "below --max-num-seqs 9"),
        (["--fault", "stall=2"], "must lie in 0..1, got 2.0"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["--ground-truth", "no/such/dir/log"], "cannot write no/such/dir/log"),
        (["--colour", "red"], "unknown argument --colour"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["simulate", *flags]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("fineserve: error: ")
    assert message in output.err
    assert output.err.count("\n") == 1


def test_a_port_in_use_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["simulate", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fineserve: error: cannot listen on 127.0.0.1:{port}: ")
    assert error.count("\n") == 1


def test_a_command_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "required: COMMAND" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert "simulate" in capsys.readouterr().out


def resident_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("engine", [{"ttft_ms": 1, "itl_ms": 5}, {"decode_step_ms": 1}])
def test_answers_leave_nothing_behind(engine: dict[str, Any]) -> None:
    """Prompts of 8,000 ids, some 0.3 MB each, while another answer keeps the collector of cycles from its work."""
    with SimulatorProcess(**engine) as simulator:
        client = Client(simulator)
        other = client.raw("/v1/completions", {"prompt": "a", "max_tokens": 20_000, "stream": True}, "other")
        body = {"prompt": list(range(1000, 9000)), "max_tokens": 2}
        for _ in range(20):
            client.events("/v1/completions", body)
        before_mb = resident_mb(simulator.pid)
        for _ in range(50):
            client.events("/v1/completions", body)
        assert resident_mb(simulator.pid) - before_mb < 8.0
        other.close()
