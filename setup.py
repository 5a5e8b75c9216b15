"""What pyproject.toml cannot say: folders at the top of the checkout are installed inside the package."""

from setuptools import find_packages, setup

INSIDE = {
    "fineserve_shapes.locustfiles": "locustfiles",
    "fineserve_shapes.datasets.replay": "datasets/replay",
    "fineserve_shapes.datasets.Parametric": "datasets/Parametric",
    "fineserve_shapes.datasets.mix": "datasets/mix",
}

setup(packages=[*find_packages(include=["fineserve_shapes*"]), *INSIDE], package_dir=INSIDE)
