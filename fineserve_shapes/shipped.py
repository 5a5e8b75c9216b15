"""Shipped: where the locustfiles and the sample data are that come with the package, wherever one stands."""

from __future__ import annotations

from pathlib import Path

from fineserve_shapes.errors import InputError

PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    """A folder that stands beside the package in a checkout and in it once it is installed."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


LOCUSTFILES = _folder("locustfiles")
DATASETS = _folder("datasets")
"""With the folders `replay` (sample traces) and `Parametric` (windows and bursts)."""
SAMPLE_MIX = DATASETS / "mix" / "four_classes.toml"
SAMPLE_TRACE = DATASETS / "replay" / "MoE_gt100B.csv"

STORIES = ("replay", "poisson", "parametric", "mix", "capacity")
"""The names of the locustfiles."""


def locustfile(story: str) -> Path:
    """The locustfile of that name. Raises InputError where none has it."""
    if story not in STORIES:
        raise InputError(f"there is no locustfile {story!r}: there are {', '.join(STORIES)}")
    return LOCUSTFILES / f"{story}.py"
