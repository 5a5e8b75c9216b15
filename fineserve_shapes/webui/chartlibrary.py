"""Chart library: where plotly.js lies, as its package brings it. No network, and no import of the package itself."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def plotly_js() -> Path:
    """The library for browsers."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package plotly is not installed")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"
