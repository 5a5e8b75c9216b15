"""Synthesis: from the options of synthetic workloads to the plans that they ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fineserve_shapes import options
from fineserve_shapes.errors import InputError
from fineserve_shapes.planning.madeplan import MadePlan
from fineserve_shapes.prompts.tokenizer import load_tokenizer
from fineserve_shapes.values import Values
from fineserve_shapes.workload.arrivals import Arrivals
from fineserve_shapes.workload.lengths import Law, parse_law
from fineserve_shapes.workload.lengthsource import LengthOptions, open_lengths
from fineserve_shapes.workload.parametric import open_parametric
from fineserve_shapes.workload.parametricoptions import MODEL_CLASSES, ParametricOptions
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.rates import RateOptions
from fineserve_shapes.workload.synthetic import SharedPrefixes, synthetic_plan
from fineserve_shapes.workload.traces.traceoptions import TraceOptions


def poisson(values: Values, request_rate: float, datasets: Path | None) -> MadePlan:
    """What `options.POISSON` ask for. request_rate: where --request-rate says none. Raises InputError."""
    rates = _rate_options(values, request_rate)
    lengths = _length_options(values, datasets, MODEL_CLASSES[-1], values.path("--dataset-path"))
    even = rates.profile is None and math.isfinite(rates.request_rate)
    rate_rps = rates.request_rate * rates.scale if even else None
    return _synthesis(rates.arrivals(), rates.line(), rates.identity(), rates.endless, lengths, values, rate_rps)


def parametric(values: Values, datasets: Path | None) -> MadePlan:
    """What `options.PARAMETRIC` ask for. Raises InputError."""
    asked = parametric_options(values, datasets)
    found = open_parametric(asked)
    lengths = _length_options(values, datasets, asked.model_class, None)
    return _synthesis(found.arrivals, found.line, found.identity, True, lengths, values, found.rate_rps)


def ended(plan: Plan, values: Values, num_prompts: int | None) -> Plan:
    """The plan up to --num-prompts; an endless one that has no --run-time either ends after `num_prompts`."""
    asked = values.count("--num-prompts")
    if asked is None and plan.endless and not values.number("--run-time"):
        asked = num_prompts
        if asked is None:
            raise InputError("this workload has no end: say when to stop with --run-time (-t) or --num-prompts")
    return plan if asked is None else plan.limited(asked)


def parametric_options(values: Values, datasets: Path | None) -> ParametricOptions:
    """The options as values; the parameters in `datasets` where none are named."""
    return ParametricOptions(
        model_class=values.text("--model-class") or MODEL_CLASSES[-1],
        gamma_params_csv=values.path("--gamma-params-csv"),
        data_root=values.path("--parametric-data-root") or (datasets and datasets / "Parametric"),
        window_s=values.number_or("--parametric-window-seconds", 300.0),
        extension_mode=values.text("--parametric-extension-mode") or "repeat_jitter",
        jitter_ratio=values.number_or("--parametric-jitter-ratio", 0.05),
        independent_windows=values.switch("--parametric-independent-windows"),
        nb_json=values.path("--parametric-nb-json"),
        disable_nb_lt10b=values.switch("--disable-parametric-nb"),
        nb_mode=values.text("--nb-mode") or "batch",
        gamma_fitted_to=values.text("--gamma-fitted-to") or "bursts",
        rate_scale=values.number_or("--rate-scale", 1.0),
    )


def _rate_options(values: Values, request_rate: float) -> RateOptions:
    asked, profile = values.text("--request-rate"), values.text("--rate-profile")
    if asked is not None and profile is not None:
        raise InputError(f"give a rate or a profile of rates, not both: got {asked} and {profile} (--request-rate)")
    burstiness, cv = _positive_or_inf(values, "--burstiness"), values.number("--cv")
    if burstiness is not None and cv is not None:
        raise InputError(f"burstiness and CV say the same: give one of --burstiness {burstiness:g} and --cv {cv:g}")
    if cv is not None:
        if cv < 0:
            raise InputError(f"the coefficient of variation of gaps must be at least 0, got {cv:g} (--cv)")
        burstiness = math.inf if cv == 0 else cv**-2
    rate = _positive_or_inf(values, "--request-rate")
    if rate is not None and math.isinf(rate) and values.count("--num-prompts") is None:
        raise InputError("at an infinite rate all requests are due at once: say how many (--num-prompts)")
    return RateOptions(
        request_rate=request_rate if rate is None else rate,
        profile=profile,
        burstiness=1.0 if burstiness is None else burstiness,
        scale=values.number_or("--rate-scale", 1.0),
    )


def _positive_or_inf(values: Values, flag: str) -> float | None:
    """A positive number, which may be infinite."""
    text = values.text(flag)
    value = math.inf if text is not None and text.lower() in ("inf", "infinity") else values.number(flag)
    if value is not None and not value > 0:
        raise InputError(f"{flag} must be positive, got {value:g}")
    return value


def _length_options(
    values: Values, datasets: Path | None, model_class: str, dataset_path: Path | None
) -> LengthOptions:
    samples = datasets and datasets / "replay"
    sample = _sample(values, samples, model_class)
    return LengthOptions(
        request_lengths_csv=values.path("--request-lengths-csv"),
        strata=values.text("--strata"),
        dataset=dataset_path,
        sample=sample,
        samples=samples,
        input_law=_law(values, "--input-length"),
        output_law=_law(values, "--output-length"),
        trace=TraceOptions(
            input_length_column=values.text("--input-length-column"),
            output_length_column=values.text("--output-length-column"),
            max_model_len=values.count("--max-model-len"),
            below_one=values.text("--below-one") or "drop",
            beyond_max_model_len=values.text("--beyond-max-model-len") or "clamp",
        ),
        seed=options.seed(values),
    )


def _sample(values: Values, samples: Path | None, model_class: str) -> Path | None:
    """Lengths that were fitted with the class's parameters, else the sample of the class, else one that is there."""
    root = values.path("--parametric-data-root")
    candidates = [] if root is None else [root / "lengths" / f"{model_class}.csv"]
    if samples is not None:
        candidates += [samples / f"{name}.csv" for name in (model_class, MODEL_CLASSES[-1])]
    return next((path for path in candidates if path.is_file()), None)


def _law(values: Values, flag: str) -> Law | None:
    text = values.text(flag)
    try:
        return None if text is None else parse_law(text)
    except InputError as error:
        raise InputError(f"{flag}: {error}") from None


def _synthesis(
    arrivals: Arrivals,
    line: str,
    identity: Mapping[str, Any],
    endless: bool,
    length_options: LengthOptions,
    values: Values,
    rate_rps: float | None,
) -> MadePlan:
    lengths = open_lengths(length_options, _token_count(values, length_options))
    seed = options.seed(values)
    prefixes = _prefixes(values)
    plan = synthetic_plan(
        arrivals,
        lengths.lengths,
        seed=seed,
        identity={"arrivals": identity, "lengths": lengths.identity},
        endless=endless,
        details={"arrivals": line, "lengths": lengths.line},
        prefixes=prefixes,
    )
    keep = values.number_or("--keep-fraction", 1.0)
    if keep != 1:
        plan = plan.thinned(keep, seed)
        line += f"; each request kept with probability {keep:g}"
    lines = [line, lengths.line]
    if prefixes is not None:
        begins = f"one of {prefixes.groups:,} prefixes of {prefixes.tokens:,} tokens"
        lines.append(f"prompts: {prefixes.share:g} of them begin with {begins}, where they are longer")
    return MadePlan(plan, tuple(lines), rate_rps=None if rate_rps is None else rate_rps * keep)


def _prefixes(values: Values) -> SharedPrefixes | None:
    share = values.number_or("--prefix-share", 0.0)
    if share == 0:
        return None
    groups, tokens = values.count("--prefix-groups"), values.count("--prefix-length")
    return SharedPrefixes(share, 1 if groups is None else groups, 512 if tokens is None else tokens)


def _token_count(values: Values, lengths: LengthOptions) -> Callable[[str], int] | None:
    """Counts tokens, where there is a prompt file to count and a tokenizer to do it."""
    name = values.text("--tokenizer")
    return load_tokenizer(name).count if name is not None and lengths.dataset is not None else None
