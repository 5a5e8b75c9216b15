"""Hooks: the pages that MkDocs makes besides those in this folder, so that nothing has to be written twice.

These are the reference of options, files of the checkout that pages link to, and `llms.txt`. MkDocs calls the `on_...`
functions; what they do is in the others, which the tests call too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fineserve_shapes.commandline import HOMES
from fineserve_shapes.options import RUN, Option

DOCS = Path(__file__).parent
ROOT = DOCS.parent
OPTIONS = "options.md"
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages that stand at the top of the checkout."""
MAP = "[The map in the README](../README.md#for-developers)"
"""In its place the site has that section, since it has no README."""
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
"""Where a link or a picture leads to."""


def option_groups() -> dict[str, tuple[Option, ...]]:
    """All options by the locustfile or the class that reads them."""
    return {**{f"Read by {home}": read for home, read in HOMES}, "Read by all of them": RUN}


def options_page() -> str:
    """The reference of options."""
    return "\n".join(_options_lines())


def _options_lines() -> Iterator[str]:
    yield "# Options\n"
    yield (
        "All options of the locustfiles beside Locust's own, with their defaults, as `fineserve options` lists them. Each"
        " can also be set in the environment: `--time-scale` is `LOCUST_TIME_SCALE`. None may be abbreviated. Locust's own"
        " (`--host`, `--run-time`, `--headless`, `--processes`, ...) are in `fineserve run replay --help`.\n"
    )
    linked: set[str] = set()
    for title, read in option_groups().items():
        yield f"## {title}\n"
        yield "| option | default | |"
        yield "|---|---|---|"
        for option in read:
            # a link leads to the first of several that have one name
            anchor = "" if option.flag in linked else f'<a id="{option.flag.lstrip("-")}"></a>'
            linked.add(option.flag)
            names = ", ".join(f"`{flag}`" for flag in option.flags)
            yield f"| {anchor}{names} | {_cell(_default(option))} | {_cell(_help(option))} |"
        yield ""


def _default(option: Option) -> str:
    return "off" if option.default is None else f"`{option.default}`" if option.default else ""


def _help(option: Option) -> str:
    choices = " or ".join(f"`{choice}`" for choice in option.choices or ())
    return f"{option.help}: {choices}" if choices else option.help


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def made_pages() -> dict[str, str]:
    """The pages that are no files of this folder, by the path that they have on the site."""
    return {OPTIONS: options_page(), **{name: (ROOT / name).read_text(encoding="utf-8") for name in OUTSIDE}}


def pages() -> dict[str, str]:
    """All pages of the site, as Markdown."""
    written = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
    return {path: _rewritten(text, path) for path, text in {**written, **made_pages()}.items()}


def linked_files() -> set[str]:
    """Files of the checkout, but for pages and this folder, that pages link to: they are put beside them."""
    found = set()
    texts = [path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")]
    for text in (*texts, *made_pages().values(), _map()):
        for link in LINK.findall(text.replace(MAP, "")):
            name = link.partition("#")[0].removeprefix("../")
            if not link.startswith(("docs/", "#")) and name not in OUTSIDE and (ROOT / name).is_file():
                found.add(name)
    return found


def _rewritten(text: str, path: str) -> str:
    """A page as it is on the site, where this folder is the top and what lay beside it is in it."""
    if MAP in text:
        text = text.replace(MAP, _rewritten(_map(), OUTSIDE[0]))
    outside = path in OUTSIDE

    def moved(found: re.Match[str]) -> str:
        link = found[1]
        return link.removeprefix("docs/") if outside else link.removeprefix("../")

    return LINK.sub(moved, text)


def _map() -> str:
    """What the README says of the rooms: its section up to the end of the table."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## For developers\n")[2].strip()
    return section[: section.rindex("|\n") + 1]


def kept(nav: Iterable[Mapping[str, Any]], there: Iterable[str]) -> list[dict[str, Any]]:
    """The navigation without pages that are not there."""
    there = set(there)
    found: list[dict[str, Any]] = []
    for entry in nav:
        for title, target in entry.items():
            if isinstance(target, str):
                found += [{title: target}] if target in there else []
            else:
                found.append({title: kept(target, there)})
    return found


def llms_txt(nav: Iterable[Mapping[str, Any]], text_of: Mapping[str, str]) -> str:
    """The site's table of contents for language models: each page with its first sentence, as a link to its Markdown."""
    lines: list[str] = ["# fineserve_shapes", "", f"> {summary_of(text_of['index.md'])}"]
    for entry in nav:
        for section, target in entry.items():
            if isinstance(target, str):
                lines += ["", _entry(section, target, text_of)]
            else:
                lines += ["", f"## {section}", ""]
                lines += [_entry(title, path, text_of) for page in target for title, path in page.items()]
    return "\n".join(lines) + "\n"


def _entry(title: str, path: str, text_of: Mapping[str, str]) -> str:
    return f"- [{title}]({path}): {summary_of(text_of[path])}"


def summary_of(text: str) -> str:
    """The first sentence of a page, without its marks."""
    paragraphs = [
        part for part in re.split(r"\n\s*\n", text) if part.strip() and not part.lstrip().startswith(("#", "!"))
    ]
    first = " ".join(paragraphs[0].split()) if paragraphs else ""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", first).replace("**", "")
    return re.split(r"(?<=[.?])\s", plain, maxsplit=1)[0].rstrip(":")


def on_config(config: Any) -> Any:
    """Leave pages out of the navigation that are not written yet."""
    config.nav = kept(config.nav, pages())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add what is made, and what stands elsewhere in the checkout."""
    from mkdocs.structure.files import File

    for path, text in made_pages().items():
        files.append(File.generated(config, path, content=text))
    for name in sorted(linked_files()):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where things are on the site."""
    return _rewritten(markdown, page.file.src_uri)


def on_post_build(config: Any) -> None:
    """Write llms.txt, and the Markdown that it names."""
    site, text_of = Path(config.site_dir), pages()
    (site / "llms.txt").write_text(llms_txt(config.nav, text_of), encoding="utf-8")
    for path, text in text_of.items():
        (site / path).write_text(text, encoding="utf-8")
