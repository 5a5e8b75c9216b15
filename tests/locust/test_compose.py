"""docker-compose.yml without an engine: its form where the client is there, and its commands as processes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import ROOT, cluster, free_port

COMPOSE = ROOT / "docker-compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]


def test_the_client_takes_the_file():
    clients = (["docker-compose"], ["docker", "compose"])
    found = [
        client for client in clients
        if shutil.which(client[0]) and not subprocess.run([*client, "version"], capture_output=True, check=False).returncode
    ]  # fmt: skip
    if not found:
        pytest.skip("neither docker-compose nor docker's compose plugin is installed")
    done = subprocess.run([*found[0], "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_trace_is_mounted_on_the_master_alone():
    mounts = {name: service.get("volumes", []) for name, service in SERVICES.items() if "build" in service}
    assert mounts == {"simulator": [], "master": ["./datasets/replay:/traces:ro"], "worker": []}


def test_ports_are_open_to_this_machine_alone():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {name: [f"127.0.0.1:{port}:{port}"] for name, port in
                     (("master", 8089), ("prometheus", 9090), ("grafana", 3000))}  # fmt: skip


def test_who_does_not_ask_for_monitoring_gets_none():
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == [
        "simulator",
        "master",
        "worker",
    ]


def test_its_commands_make_a_run(tmp_path: Path):
    """The services as local processes, with ports and names put in as compose would."""
    web, master, server = free_port(), free_port(), free_port()
    places = {"0.0.0.0": "127.0.0.1", "8000": str(server), "8089": str(web), "master": "127.0.0.1"}

    def words(service: str) -> list[str]:
        first, *rest = shlex.split(SERVICES[service]["command"])
        program = {"fineserve": "fineserve_shapes.cli", "locust": "locust"}[first]
        local = [places.get(word, word) for word in rest]
        return [
            sys.executable,
            "-m",
            program,
            *(str(ROOT / word) if word.startswith("locustfiles/") else word for word in local),
        ]

    environment = SERVICES["master"]["environment"]
    trace = environment["LOCUST_REQUEST_TRACE_CSV"].replace("/traces", str(ROOT / "datasets" / "replay"))
    trace = trace.replace("${FINESERVE_TRACE:-MoE_gt100B.csv}", "MoE_gt100B.csv")
    started: list[subprocess.Popen[bytes]] = []
    with cluster(tmp_path) as locust:
        settings = locust.environment | {
            "LOCUST_HOST": f"http://127.0.0.1:{server}",
            "LOCUST_REQUEST_TRACE_CSV": trace,
            "LOCUST_MASTER_BIND_PORT": str(master),
            "LOCUST_MASTER_NODE_PORT": str(master),
        }
        try:
            for service in ("simulator", "master", "worker"):
                with (tmp_path / f"{service}.log").open("wb") as log:
                    started.append(
                        subprocess.Popen(
                            words(service), cwd=tmp_path, env=settings, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                        )
                    )
                healthcheck = SERVICES[service].get("healthcheck")
                if healthcheck:
                    check = [sys.executable, *healthcheck["test"][2:]]
                    check[-1] = check[-1].replace(":8000/", f":{server}/").replace(":8089/", f":{web}/")
                    wait_for(check)
            wait_for([sys.executable, "-c", (f"import urllib.request as u, json; d = json.load(u.urlopen("
                      f"'http://127.0.0.1:{web}/stats/requests')); assert d['workers']")])  # fmt: skip
            data = b"user_count=1&spawn_rate=1&run_time=3s&drain_timeout=0"
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/swarm", data, timeout=60) as response:
                assert b'"success":true' in response.read().replace(b" ", b"")
            until_s = time.monotonic() + 30
            while "ledger: " not in (tmp_path / "master.log").read_text():
                assert time.monotonic() < until_s, (tmp_path / "master.log").read_text()
                time.sleep(0.2)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(20)


def wait_for(check: list[str]) -> None:
    """Run a health check until it passes, as compose does."""
    until_s = time.monotonic() + 30
    while subprocess.run(check, capture_output=True, check=False).returncode:
        assert time.monotonic() < until_s, check
        time.sleep(0.3)
