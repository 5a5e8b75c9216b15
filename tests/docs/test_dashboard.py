"""The dashboard: each query names metrics and labels that are there, and all that we export is on it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from commands import DOCS, ROOT
from measured import record
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from test_feed import FakeRun, begun

from fineserve_shapes.measure.fidelity import Process
from fineserve_shapes.simulator.process import SimulatorProcess
from fineserve_shapes.webui.prometheus import RunCollector

GRAFANA = ROOT / "deployment" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "fineserve.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
METRIC = re.compile(r"\b(?:fineserve_|vllm:)[a-z0-9_]+")

Labels = dict[str, set[str]]


def labels_of(page: str) -> Labels:
    """The labels of each metric on a page of Prometheus."""
    found: Labels = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def exported() -> Labels:
    """What we export of a run with an SLO and a worker."""
    run = FakeRun(5.0)
    run.workers["w"] = Process()
    run.tally.plan(np.zeros(3, dtype=np.int64), np.array([0.0, 0.1, 0.2]))
    run.tally.delivery.advance(5.0)
    run.take([record(i) for i in range(3)])
    registry = CollectorRegistry()
    registry.register(RunCollector(begun(run)))
    return labels_of(generate_latest(registry).decode())


@pytest.fixture(scope="module")
def served() -> Labels:
    """What the simulator exports by vLLM's names."""
    with SimulatorProcess() as server, urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        return labels_of(answer.read().decode())


def selected(query: str) -> dict[str, set[str]]:
    """The metrics of a query with the labels by which it selects; those by which it sums are of all of them."""
    summed = {label.strip() for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(",")}
    found: dict[str, set[str]] = {}
    for match in re.finditer(METRIC.pattern + r"(?:\{([^}]*)\})?", query):
        name = re.match(METRIC, match[0])
        assert name is not None
        found[name[0]] = summed | {part.partition("=")[0].rstrip("!~") for part in (match[1] or "").split(",") if part}
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_what_there_is(query: str, exported: Labels, served: Labels) -> None:
    there = exported | served
    for metric, labels in selected(query).items():
        assert metric in there
        assert labels <= there[metric], query
    assert query.count("(") == query.count(")")


def test_all_that_we_export_is_on_the_dashboard_and_in_the_guide(exported: Labels) -> None:
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported}
    drawn = {re.sub(r"_bucket$", "", name) for query in QUERIES for name in selected(query)}
    assert families == {name for name in drawn if name.startswith("fineserve_")}
    guide = (DOCS / "monitoring.md").read_text()
    assert set(re.findall(r"`(fineserve_[a-z0-9_]+)`", guide)) == families


def test_promtool_takes_the_queries_and_the_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    plain = [query.replace("$__rate_interval", "1m").replace("$stream", ".*") for query in QUERIES]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    for words in (
        ["rules", str(tmp_path / "rules.yml")],
        ["config", str(ROOT / "deployment" / "prometheus" / "prometheus.yml")],
    ):
        done = subprocess.run([promtool, "check", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_what_its_script_makes() -> None:
    assert (GRAFANA / "fineserve.json").read_text() == script().text()


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        mine = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not mine & taken, panel["title"]
        assert max(x for x, _ in mine) < 24
        taken |= mine
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_it_is_provisioned() -> None:
    """Compose mounts what is there, where Grafana and Prometheus look for it, and they look for services that there are."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = [volume for name in ("prometheus", "grafana") for volume in services[name]["volumes"]]
    assert all((ROOT / volume.partition(":")[0]).is_file() for volume in mounts)
    provider = yaml.safe_load((GRAFANA / "dashboards.yml").read_text())["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == f"{provider}/fineserve.json" for volume in mounts)
    scraped = yaml.safe_load((ROOT / "deployment" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    hosts = {
        target.partition(":")[0] for job in scraped for part in job["static_configs"] for target in part["targets"]
    }
    source = yaml.safe_load((GRAFANA / "datasources.yml").read_text())["datasources"][0]["url"]
    assert {*hosts, source.split("/")[2].partition(":")[0]} <= set(services)


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dashboard", GRAFANA / "make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_dashboard"] = module
    spec.loader.exec_module(module)
    return module
