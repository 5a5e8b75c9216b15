"""Which room may import which: the table below, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fineserve_shapes"

GROUND = ("errors", "machine", "filenames", "shipped", "text", "rounding", "arrays", "outcome", "timerfd", "timer")
"""Modules that any room may use; `timer` where there is gevent."""

ROOMS: dict[str, tuple[str, ...]] = {
    "cli": ("stories", "options", "tracetools", "htmlreport", "simulator", "runner"),
    "stories": ("options",),
    "shapes": ("users", "runner", "planning", "commandline", "options", "streams", "values", "measure", "workload"),
    "runner": ("users", "webui", "htmlreport", "engine", "client", "leases", "workload", "protocol", "measure",
               "commandline", "options", "streams", "values", "simulator"),
    "users": ("options", "streams", "values", "client", "prompts", "protocol", "measure"),
    "htmlreport": ("webui", "measure"),
    "webui": ("measure",),
    "tracetools": ("planning", "commandline", "options", "streams", "values", "workload", "measure"),
    "planning": ("options", "streams", "values", "prompts", "workload"),
    "commandline": ("options",),
    "options": ("streams", "values", "engine", "client", "workload", "measure", "protocol"),
    "streams": ("values", "measure"),
    "values": ("measure",),
    "engine": ("leases", "workload", "protocol", "measure"),
    "client": ("protocol", "measure"),
    "leases": ("workload", "protocol", "measure"),
    "prompts": ("workload",),
    "workload": ("measure",),
    "protocol": (),
    "measure": (),
    "simulator": (),
    "timer": (), "timerfd": (), "filenames": (), "machine": (), "shipped": (), "errors": (), "text": (), "arrays": (),
    "outcome": (), "rounding": (),
}  # fmt: skip
"""Each room, from the top, and the rooms below that it may import."""

CORE = ("workload", "prompts", "planning", "protocol", "measure", "leases")
"""Rooms without gevent and Locust."""
WITHOUT_LOCUST = (*CORE, "engine", "client", "simulator", "htmlreport", "tracetools")


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = {
    ".".join(("fineserve_shapes", *path.relative_to(PACKAGE).with_suffix("").parts)): imports(path)
    for path in sorted(PACKAGE.rglob("*.py"))
}


def own(imported: str) -> str | None:
    """The module of ours that an imported name stands in."""
    parts = imported.split(".")
    while len(parts) > 1:
        if ".".join(parts) in MODULES:
            return ".".join(parts)
        if ".".join([*parts, "__init__"]) in MODULES:
            return ".".join([*parts, "__init__"])
        parts.pop()
    return None


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_room_may(module: str):
    room = room_of(module)
    if room == "__init__":
        return
    allowed = {room, *ROOMS[room], *GROUND, "__init__"}
    assert {room_of(found) for name in MODULES[module] if (found := own(name))} <= allowed


def test_rooms_stand_in_order():
    """Imports point downwards in the table: there is no circle of rooms."""
    order = list(ROOMS)
    assert all(order.index(below) > order.index(room) for room, others in ROOMS.items() for below in others)


def test_no_modules_go_round_in_a_circle():
    graph = {
        module: {found for name in names if (found := own(name)) and found != module and "__init__" not in found}
        for module, names in MODULES.items()
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in WITHOUT_LOCUST])
def test_rooms_below_the_runner_know_no_locust(module: str):
    unwanted = {"locust", "gevent"} if room_of(module) in CORE else {"locust"}
    assert not {name.split(".")[0] for name in MODULES[module]} & unwanted


def test_every_room_says_its_rule():
    for folder in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(folder.read_text())), folder


def test_no_two_classes_have_one_name():
    """Whoever reads or greps a name finds one thing."""
    names = Counter(
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in names.items() if count > 1} == {}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_long(path: Path):
    assert len(path.read_text().splitlines()) <= 400


def test_a_worker_imports_nothing_that_makes_plans_or_summaries():
    """It takes half a second or more, in each worker."""
    code = "import sys, fineserve_shapes.shapes, fineserve_shapes.users; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"scipy", "pandas", "transformers", "plotly", "matplotlib"} & set(done.stdout.split())
