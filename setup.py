"""What pyproject.toml cannot say: folders from the top of the checkout inside the package, and a part in C that is a bonus.

Where the part in C cannot be built (no compiler, not Linux) all works without it, by the same rules in Python.
"""

import sys
import sysconfig

from setuptools import Extension, find_packages, setup

INSIDE = {
    "fineserve_shapes.locustfiles": "locustfiles",
    "fineserve_shapes.datasets.replay": "datasets/replay",
    "fineserve_shapes.datasets.Parametric": "datasets/Parametric",
    "fineserve_shapes.datasets.mix": "datasets/mix",
}
# it has one binary for every Python, which those without the interpreter's lock cannot load
BUILDS_LANES = sys.platform == "linux" and not sysconfig.get_config_var("Py_GIL_DISABLED")
LANES = Extension(
    "fineserve_shapes.client._lanes",
    ["fineserve_shapes/client/_lanes.c"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
    py_limited_api=True,
    optional=True,
)

setup(
    packages=[*find_packages(include=["fineserve_shapes*"]), *INSIDE],
    package_dir=INSIDE,
    ext_modules=[LANES] if BUILDS_LANES else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if BUILDS_LANES else {},
)
