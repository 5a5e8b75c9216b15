"""The site: it builds without a warning, and what is made for it is what the code says."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import DOCS, ROOT

from docs import hooks
from fineserve_shapes.commandline import HOMES
from fineserve_shapes.options import RUN
from fineserve_shapes.shipped import STORIES
from fineserve_shapes.stories import option_lines


class _Loader(yaml.SafeLoader):
    """Takes MkDocs' tags for text."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: suffix)
CONFIG: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


def targets(nav: list[Any]) -> list[str]:
    return [
        path
        for entry in nav
        for target in entry.values()
        for path in ([target] if isinstance(target, str) else targets(target))
    ]


def test_every_page_is_in_the_navigation_once() -> None:
    listed = targets(CONFIG["nav"])
    assert len(listed) == len(set(listed))
    assert set(hooks.pages()) == set(targets(hooks.kept(CONFIG["nav"], hooks.pages())))


def test_the_reference_has_what_the_command_lists() -> None:
    """Each option with its default, under a name that links can use."""
    page = hooks.options_page()
    listed = {line.split()[0].rstrip(",") for line in option_lines(STORIES) if line.startswith("  --")}
    rows = re.findall(r'^\| (?:<a id="[^"]+"></a>)?`(--[a-z-]+)`.*\|$', page, re.MULTILINE)
    assert set(rows) == listed
    ids = re.findall(r'<a id="([^"]+)">', page)
    assert sorted(ids) == sorted(flag.lstrip("-") for flag in listed)
    for option in (option for read in (*(read for _, read in HOMES), RUN) for option in read):
        assert not option.default or f"| `{option.default}` |" in page
        assert hooks._cell(option.help) in page


def test_a_sentence_of_each_page_is_what_a_model_reads_of_it() -> None:
    text = hooks.llms_txt(hooks.kept(CONFIG["nav"], hooks.pages()), hooks.pages())
    entries = re.findall(r"^- \[([^]]+)\]\(([^)]+)\): (.+)$", text, re.MULTILINE)
    assert {path for _, path, _ in entries} == set(hooks.pages())
    assert text.startswith("# fineserve_shapes\n\n> A Locust extension that puts realistic LLM traffic on vLLM")
    assert all(10 < len(summary) < 300 for _, _, summary in entries), entries


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed (the extra docs)")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / "mkdocs.yml"), "-d", str(site)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text()):
        assert (site / path).is_file()
        assert (site / path).with_suffix(".html").is_file()
    for name in hooks.linked_files():
        assert (site / name).is_file()
    assert 'id="time-scale"' in (site / "options.html").read_text()
    assert {path.relative_to(site).as_posix() for path in site.rglob("*.py*")} <= hooks.linked_files()


def test_nothing_of_the_site_comes_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    pictures = [link for path in DOCS.rglob("*.md") for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", path.read_text())]
    assert pictures
    assert all(not link.startswith("http") for link in pictures)
