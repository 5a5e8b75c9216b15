"""What pyproject.toml cannot say: folders from the top of the checkout inside the package, and parts in C that are a bonus.

Where those cannot be built (no compiler, not Linux) all works without them, by the same rules in Python.
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
# they have one binary for every Python, which those without the interpreter's lock cannot load
BUILDS_PARTS = sys.platform == "linux" and not sysconfig.get_config_var("Py_GIL_DISABLED")
PARTS = [
    Extension(
        f"fineserve_shapes.{room}.{name}",
        [f"fineserve_shapes/{room}/{name}.c"],
        extra_compile_args=["-O2", "-Wall", "-Wextra"],
        py_limited_api=True,
        optional=True,
    )
    for room, name in (("client", "_lanes"), ("simulator", "_ring"))
]

setup(
    packages=[*find_packages(include=["fineserve_shapes*"]), *INSIDE],
    package_dir=INSIDE,
    ext_modules=PARTS if BUILDS_PARTS else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if BUILDS_PARTS else {},
)
