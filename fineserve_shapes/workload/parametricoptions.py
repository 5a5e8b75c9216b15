"""What can be chosen about a parametric workload, apart from what it takes to make one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fineserve_shapes.errors import InputError

MODEL_CLASSES = ("Dense_lt10B", "Dense_10to30B", "Dense_30to100B", "MoE_gt100B")
EXTENSION_MODES = ("repeat_jitter", "model_sample")
NB_MODES = ("batch", "slot")
FITTED_TO = ("bursts", "requests")
BURSTY_CLASS = "Dense_lt10B"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametricOptions:
    """Which windows and bursts, and how they go on. Each field has the name of its flag.

    model_class: names the files in data_root, `gamma/<class>_gamma_5min.csv` and `nb/<class>_nb.json`.
    gamma_params_csv, nb_json: files in the stead of those. Without nb_json bursts are for `BURSTY_CLASS` alone.
    window_s: length of a window where the file has no window columns.
    extension_mode, jitter_ratio, independent_windows: see `RepeatJitter` and `ModelSample`.
    nb_mode, gamma_fitted_to: see `with_bursts`.
    rate_scale: what the rate is multiplied by; burstiness stays.
    """

    model_class: str = MODEL_CLASSES[-1]
    gamma_params_csv: Path | None = None
    data_root: Path | None = None
    window_s: float = 300.0
    extension_mode: str = "repeat_jitter"
    jitter_ratio: float = 0.05
    independent_windows: bool = False
    nb_json: Path | None = None
    disable_nb_lt10b: bool = False
    nb_mode: str = "batch"
    gamma_fitted_to: str = "bursts"
    rate_scale: float = 1.0

    def __post_init__(self) -> None:
        for flag, value, choices in (
            ("--parametric-extension-mode", self.extension_mode, EXTENSION_MODES),
            ("--nb-mode", self.nb_mode, NB_MODES),
            ("--gamma-fitted-to", self.gamma_fitted_to, FITTED_TO),
        ):
            if value not in choices:
                raise InputError(f"{flag} is one of {', '.join(choices)}, got {value!r}")
        if self.independent_windows and self.extension_mode != "model_sample":
            raise InputError(
                "--parametric-independent-windows is of --parametric-extension-mode model_sample;"
                f" it makes no sense for {self.extension_mode}"
            )
        if not 0 < self.rate_scale < math.inf:
            raise InputError(f"a rate can be scaled by a positive number only, got {self.rate_scale} (--rate-scale)")
        if "/" in self.model_class or not self.model_class.strip("."):
            raise InputError(f"a class is a name, such as {MODEL_CLASSES[0]}, got {self.model_class!r} (--model-class)")
