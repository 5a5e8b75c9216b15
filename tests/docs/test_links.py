"""Every link within the project leads somewhere: to a file, and to a heading or a place in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import DOCS, ROOT

from docs import hooks

TEXTS = [
    *(path for path in sorted(ROOT.glob("*.md"))),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "datasets").glob("*.md")),
]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def slug(heading: str) -> str:
    """The anchor of a heading, by the rule of Python-Markdown and of GitHub, which agree where there is but one of its
    words."""
    plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", ""))
    return re.sub(r"\s+", "-", plain.strip().lower())


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {slug(heading) for heading in headings} | set(re.findall(r'<a id="([^"]+)">', text))


def text_behind(target: Path) -> str | None:
    """The text of a page that a link leads to, be it a file or made; None where there is nothing."""
    if target.parent == DOCS and target.name == hooks.OPTIONS:
        return hooks.options_page()
    return target.read_text(encoding="utf-8", errors="replace") if target.is_file() else None


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    lost = []
    for link in hooks.LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        text = text_behind(target)
        if text is None or (anchor and anchor not in anchors(text)):
            lost.append(link)
    assert lost == []


def test_pages_link_into_the_checkout_only() -> None:
    outside = {link for path in DOCS.rglob("*.md") for link in hooks.LINK.findall(path.read_text()) if "../../" in link}
    assert outside == set()
