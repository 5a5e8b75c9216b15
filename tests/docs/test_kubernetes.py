"""The manifests: they parse, fit together, and name options and variables that there are."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT, flags_of, known_flags, story_options, variables

from fineserve_shapes.simulator.process import SimulatorProcess

FOLDER = ROOT / "deployment" / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: dict[str, Any] = {
    f"{found['kind']}/{found['metadata']['name']}": found
    for name in [*KUSTOMIZATION["resources"], "api-key.example.yaml"]
    for found in yaml.safe_load_all((FOLDER / name).read_text())
}
PODS = {name: OBJECTS[name]["spec"]["template"] for name in ("Job/fineserve-master", "Deployment/fineserve-worker")}
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}


def run_env() -> dict[str, str]:
    lines = (FOLDER / "run.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_there_is_a_master_and_there_are_workers_and_what_lies_between_them() -> None:
    assert set(OBJECTS) == {"Job/fineserve-master", "Deployment/fineserve-worker", "Service/fineserve-master",
                            "NetworkPolicy/fineserve-master", "Secret/fineserve-api-key"}  # fmt: skip
    made = KUSTOMIZATION["configMapGenerator"]
    assert [(one.get("files"), one.get("envs")) for one in made] == [(["locustfile.py"], None), (None, ["run.env"])]


@pytest.mark.parametrize("name", CONTAINERS)
def test_commands_name_options_that_there_are(name: str) -> None:
    command = CONTAINERS[name]["args"]
    assert command[0] == "locust"
    assert flags_of(command) <= known_flags(command)


def test_variables_are_those_of_options_that_the_locustfile_reads() -> None:
    assert "PoissonShape" in (FOLDER / "locustfile.py").read_text()
    assert set(run_env()) <= variables("poisson")
    assert "LOCUST_REQUEST_TRACE_CSV" not in variables("poisson")
    assert any(option.flag == "--request-rate" for option in story_options("poisson"))


@pytest.mark.flaky(reruns=2)  # a machine that stands still for two seconds makes a worker fall silent
def test_the_containers_make_a_run(tmp_path: Path) -> None:
    """Their commands as processes, with places, names and ports put in as the cluster would, for a second."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    places = {"/results": str(tmp_path), "/config": str(FOLDER), "0.0.0.0:9646": "0", "0.0.0.0": "127.0.0.1",
              "fineserve-master": "127.0.0.1"}  # fmt: skip

    def local(text: str) -> str:
        for there, here in places.items():
            text = text.replace(there, here)
        return text

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "OPENAI_"))}
    settings = clean | {"PYTHONWARNINGS": "ignore", "LOCUST_MASTER_BIND_PORT": port, "LOCUST_MASTER_NODE_PORT": port}
    with SimulatorProcess(ttft_ms=5, itl_ms=1) as server, (tmp_path / "log").open("w+") as log:
        run = {name: local(value) for name, value in run_env().items()}
        run |= {"LOCUST_HOST": server.url, "LOCUST_RUN_TIME": "1s", "LOCUST_EXPECT_WORKERS": "1"}
        started = [
            subprocess.Popen([sys.executable, "-m", *map(local, CONTAINERS[name]["args"])], env=settings | more,
                             cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            for name, more in (("Job/fineserve-master", run), ("Deployment/fineserve-worker", {}))
        ]  # fmt: skip
        try:
            codes = [process.wait(60) for process in started]
        finally:
            for process in started:
                process.kill()
        log.seek(0)
        assert codes == [0, 0], log.read()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["ledger"]["ok"] == summary["ledger"]["planned"] > 0
    assert (tmp_path / "report.html").is_file()


def test_parts_fit_together() -> None:
    """Selectors find their pods, workers the service, ports each other, and each mount its volume."""
    service, worker = OBJECTS["Service/fineserve-master"], OBJECTS["Deployment/fineserve-worker"]
    labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
    policy = OBJECTS["NetworkPolicy/fineserve-master"]["spec"]
    assert service["spec"]["selector"] == policy["podSelector"]["matchLabels"] == labels["Job/fineserve-master"]
    assert worker["spec"]["selector"]["matchLabels"] == labels["Deployment/fineserve-worker"]
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == labels["Deployment/fineserve-worker"]
    command = CONTAINERS["Deployment/fineserve-worker"]["args"]
    assert command[command.index("--master-host") + 1] == service["metadata"]["name"]
    open_ports = {port["name"]: port["containerPort"] for port in CONTAINERS["Job/fineserve-master"]["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == open_ports
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == set(open_ports.values())
    master = CONTAINERS["Job/fineserve-master"]["args"]
    assert master[master.index("--prometheus-port") + 1] == f"0.0.0.0:{open_ports['metrics']}"
    assert int(run_env()["LOCUST_EXPECT_WORKERS"]) == worker["spec"]["replicas"]
    for name, container in CONTAINERS.items():
        volumes = {volume["name"] for volume in PODS[name]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    places = {mount["mountPath"] for mount in CONTAINERS["Job/fineserve-master"]["volumeMounts"]}
    assert {value.rpartition("/")[0] for value in run_env().values() if value.startswith("/")} <= places


def test_the_key_comes_from_the_secret_and_only_workers_have_it() -> None:
    secret = OBJECTS["Secret/fineserve-api-key"]
    (key,) = [entry for entry in CONTAINERS["Deployment/fineserve-worker"]["env"] if "valueFrom" in entry]
    assert key["valueFrom"]["secretKeyRef"] == {
        "name": secret["metadata"]["name"],
        "key": key["name"],
        "optional": True,
    }
    assert list(secret["stringData"]) == [key["name"]] == ["OPENAI_API_KEY"]
    assert "OPENAI" not in json.dumps(CONTAINERS["Job/fineserve-master"]) + (FOLDER / "run.env").read_text()


@pytest.mark.parametrize("name", PODS)
def test_nobody_has_more_rights_than_needed(name: str) -> None:
    pod, container = PODS[name]["spec"], CONTAINERS[name]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert not pod["automountServiceAccountToken"]
    assert "cpu" not in container["resources"]["limits"]


def test_kubectl_takes_the_folder() -> None:
    """With the names of the config maps in their places."""
    kubectl = shutil.which("kubectl")
    if kubectl is None or subprocess.run([kubectl, "kustomize", "--help"], capture_output=True, check=False).returncode:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    maps = {found["metadata"]["name"]: found["data"] for found in made if found["kind"] == "ConfigMap"}
    (job,) = (found for found in made if found["kind"] == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert maps[container["envFrom"][0]["configMapRef"]["name"]] == run_env()
    assert container["image"] == "fineserve-shapes:0.1.0"
