"""Parametric: arrivals from gamma windows and burst sizes, found by class in a directory laid out as FineServe's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from fineserve_shapes.errors import InputError
from fineserve_shapes.rounding import rounded
from fineserve_shapes.workload.arrivals import Arrivals, Modulated, Profile, Scaled
from fineserve_shapes.workload.bursts import read_nb, with_bursts
from fineserve_shapes.workload.extension import ModelSample, RepeatJitter
from fineserve_shapes.workload.parametricoptions import BURSTY_CLASS, ParametricOptions
from fineserve_shapes.workload.sourcedigest import source_digest
from fineserve_shapes.workload.traces.selection import normalised
from fineserve_shapes.workload.windows import read_windows


@dataclass(frozen=True, slots=True)
class Parametric:
    """Arrivals, what decides them (for a fingerprint), and what they are, for the log.

    rate_rps: mean rate of requests over the windows.
    """

    arrivals: Arrivals
    identity: dict[str, object]
    line: str
    rate_rps: float


def open_parametric(options: ParametricOptions) -> Parametric:
    """The arrivals that the options ask for; endless. Raises InputError naming the file, the place or the flag."""
    gamma = options.gamma_params_csv or _gamma_file(options)
    nb_file = _nb_file(options)
    windows = read_windows(gamma, options.window_s)
    profile: Profile = RepeatJitter(windows, options.jitter_ratio)
    how = f"repeated with jitter {options.jitter_ratio:g}"
    if options.extension_mode == "model_sample":
        profile = ModelSample(windows, independent=options.independent_windows)
        how = "drawn independently" if options.independent_windows else "drawn from a model of their day"
    if options.rate_scale != 1:
        profile = Scaled(profile, options.rate_scale)
    rate_rps = windows.mean_rate_rps * options.rate_scale
    bursts = "without bursts"
    if nb_file is None:
        arrivals: Arrivals = Modulated(profile)
    else:
        nb = read_nb(nb_file)
        fitted_to = cast("Literal['bursts', 'requests']", options.gamma_fitted_to)
        arrivals = with_bursts(
            profile, nb, mode=cast("Literal['batch', 'slot']", options.nb_mode), gamma_fitted_to=fitted_to
        )
        mean, _ = nb.moments()
        rate_rps *= mean if fitted_to == "bursts" else 1.0
        each = f"{rounded(mean)} requests each on average"
        bursts = f"bursts of {nb_file.name}, {each} ({options.nb_mode}, gamma of {fitted_to})"
    line = (
        f"gamma windows of {gamma.name}: {len(windows)} over {windows.span_s / 3600:.4g} h, {how}; {bursts};"
        f" mean rate {rounded(rate_rps, 4)}/s"
    )
    identity: dict[str, object] = {
        "gamma": source_digest(gamma),
        "window_s": options.window_s,
        "extension": [options.extension_mode, options.jitter_ratio, options.independent_windows],
        "nb": None if nb_file is None else [source_digest(nb_file), options.nb_mode, options.gamma_fitted_to],
        "rate_scale": options.rate_scale,
    }
    return Parametric(arrivals, identity, line, rate_rps)


def _gamma_file(options: ParametricOptions) -> Path:
    """The class's windows in the data root. Files may name their window: `_gamma_5min.csv` comes first."""
    if options.data_root is None:
        raise InputError("no gamma parameters: give --gamma-params-csv, or --parametric-data-root and --model-class")
    folders = [folder for folder in _folders(options.data_root, "gamma") if folder.is_dir()]
    for folder in folders:
        named = folder / f"{options.model_class}_gamma_5min.csv"
        found = [named] if named.is_file() else sorted(folder.glob(f"{_literal(options.model_class)}_gamma_*.csv"))
        if found:
            return found[0]
    there = sorted({path.name.partition("_gamma_")[0] for folder in folders for path in folder.glob("*_gamma_*.csv")})
    raise InputError(
        f"{options.data_root}: no file gamma/{options.model_class}_gamma_5min.csv (--model-class,"
        f" --parametric-data-root); the classes there are: {', '.join(there) or 'none'}"
    )


def _nb_file(options: ParametricOptions) -> Path | None:
    if options.nb_json is not None:
        return options.nb_json
    if normalised(options.model_class) != normalised(BURSTY_CLASS) or options.disable_nb_lt10b:
        return None
    if options.data_root is not None:
        for folder in _folders(options.data_root, "nb"):
            found = folder / f"{options.model_class}_nb.json"
            if found.is_file():
                return found
    raise InputError(
        f"{options.model_class} comes in bursts, and there is no file nb/{options.model_class}_nb.json in"
        f" {options.data_root} (--parametric-nb-json names one, --disable-parametric-nb does without)"
    )


def _folders(data_root: Path, name: str) -> list[Path]:
    """Where files of a kind may lie: the root is the folder Parametric, or the one above it."""
    return [data_root / name, data_root / "Parametric" / name]


def _literal(name: str) -> str:
    """The name with nothing in it that glob would take for a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
