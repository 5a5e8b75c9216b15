"""What who has no checkout gets: the sdist, the wheel built from it, and the package that is installed from that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from fineserve_shapes import __version__
from fineserve_shapes.shipped import DATASETS, LOCUSTFILES, locustfile

ROOT = Path(__file__).parents[2]
SETUPTOOLS = 77  # what pyproject.toml asks for; an environment that was made before may have an older one
LEFT = shutil.ignore_patterns(".*", "results", "build", "dist", "*.egg-info", "__pycache__")


def python(*words: object, cwd: Path, path: Path) -> str:
    """What a Python process prints; its own packages come first from `path`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "OPENAI_"))}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def built(kind: str, source: Path, out: Path, tools: Path) -> Path:
    """The one file that setuptools makes of a source tree: an sdist or a wheel."""
    script = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    python("-c", script, out, cwd=source, path=tools)
    (found,) = out.iterdir()
    return found


@pytest.mark.timeout(400)  # forty seconds where nothing else runs
def test_the_installed_package_has_locustfiles_and_samples_and_runs_in_an_empty_folder(tmp_path: Path) -> None:
    tree, tools, unpacked, installed, empty = (
        tmp_path / name for name in ("tree", "tools", "unpacked", "installed", "empty")
    )
    empty.mkdir()
    shutil.copytree(ROOT, tree, ignore=LEFT)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--target")
    if int(version("setuptools").partition(".")[0]) < SETUPTOOLS:
        python(*pip, tools, f"setuptools>={SETUPTOOLS}", cwd=empty, path=tools)

    sdist = built("sdist", tree, tmp_path / "sdist", tools)
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # since 3.11.4
    (source,) = unpacked.iterdir()
    for folder in ("locustfiles", "datasets", "tests", "docs"):
        assert files(source / folder) == files(tree / folder)

    wheel = built("wheel", source, tmp_path / "wheel", tools)
    python(*pip, installed, "--no-deps", wheel, cwd=empty, path=tools)
    package = installed / "fineserve_shapes"
    assert files(package / "locustfiles") == files(LOCUSTFILES)
    assert files(package / "datasets") == {
        name for name in files(DATASETS) if name.startswith(("replay/", "Parametric/", "mix/"))
    }

    def fineserve(*words: object) -> str:
        return python("-m", "fineserve_shapes.cli", *words, cwd=empty, path=installed)

    (empty / "my.py").write_text(fineserve("locustfile", "poisson"))
    assert (empty / "my.py").read_text() == locustfile("poisson").read_text()
    run = python("-m", "locust", "-f", "my.py", "--headless", "--num-prompts", 5, "--output-length", 5, cwd=empty,
                 path=installed)  # fmt: skip
    assert "ledger: 5 planned" in run, run
    fineserve("trace", "synth", "--model-class", "Dense_10to30B", "--duration", 20, "--out", "made.csv")
    run = fineserve("run", "replay", "--headless", "-t", "3s", "--output-file", "summary.json")
    assert re.search(r"ledger: \d+ planned", run), run
    assert (empty / "summary.json").exists()


def files(folder: Path) -> set[str]:
    """The files below a folder, without what Python compiled."""
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }


def test_all_files_of_a_release_name_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == __version__
    assert citation["title"] == "fineserve_shapes"
