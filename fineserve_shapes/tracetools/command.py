"""`fineserve trace`: its flags, and the way from flags to what the tools do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from fineserve_shapes import commandline, options
from fineserve_shapes.errors import InputError
from fineserve_shapes.options import Option
from fineserve_shapes.planning import synthesis
from fineserve_shapes.shipped import DATASETS
from fineserve_shapes.tracetools import fitting, inspection
from fineserve_shapes.tracetools.convert import Scaling, convert
from fineserve_shapes.tracetools.progress import counted
from fineserve_shapes.tracetools.writing import trace_writer
from fineserve_shapes.values import Values
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.lengths import RecordedPairs
from fineserve_shapes.workload.parametric import open_parametric
from fineserve_shapes.workload.parametricoptions import ParametricOptions
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.prefixblocks import BLOCK_TOKENS
from fineserve_shapes.workload.replay import trace_plan
from fineserve_shapes.workload.synthetic import synthetic_plan
from fineserve_shapes.workload.traces.trace import Trace, open_trace

COMPARED_ROWS = 2_000_000  # that a fit makes from its parameters to set beside the trace

_SEED = Option("--seed", "seed of everything random", "0")
_TRACE = (*(option for option in options.TRACE if option.flag != "--request-trace-csv"), _SEED)


def add_parser(commands: Any, shown: str) -> None:
    """Add the subcommand to argparse's collection of them."""
    trace = commands.add_parser("trace", help=shown, description=shown)
    tools = trace.add_subparsers(metavar="TOOL", required=True)

    parser = tools.add_parser(
        "inspect", help="rows, span, rate, burstiness and lengths of a trace, and what is dropped"
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--plot", metavar="FILE.png|.html", type=Path, help="draw it, too")
    commandline.add(parser, _TRACE, environment=False)
    parser.set_defaults(run=_inspect)

    parser = tools.add_parser("fit", help="gamma windows, sizes of bursts and lengths of a trace, in FineServe's form")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="directory, later --parametric-data-root"
    )
    parser.add_argument("--name", help="class name of the parameters (default: the file's name)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    commandline.add(
        parser,
        (
            Option("--parametric-window-seconds", "length of a window", "300"),
            Option("--gamma-fitted-to", "what the gaps lie between; auto: bursts where many time stamps are equal", "auto",
                   ("auto", "bursts", "requests")),
            Option("--burst-within", "seconds from a burst's first request to its last; 0: equal time stamps", "0"),
            *_TRACE,
        ),
        environment=False,
    )  # fmt: skip
    parser.set_defaults(run=_fit)

    parser = tools.add_parser("synth", help="make a trace from parameters: FineServe's columns, microseconds")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="trace to write; its name says the format"
    )
    commandline.add(
        parser,
        (Option("--duration", "seconds of the trace to make, e.g. 86400"), *options.PARAMETRIC, _SEED),
        environment=False,
    )
    parser.set_defaults(run=_synth)

    parser = tools.add_parser("convert", help="sort, clean and cut a trace of any size; between formats")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help=".csv, .jsonl (each .gz, .zst), .parquet"
    )
    commandline.add(parser, _TRACE, environment=False)
    parser.set_defaults(run=_convert)


def _opened(args: argparse.Namespace) -> tuple[Trace, Plan]:
    """The trace and the plan that a locustfile would make of it with these options."""
    values = Values(args)
    trace = open_trace(args.file, options.trace_options(values))
    return trace, trace_plan(
        trace,
        time_scale=values.number_or("--time-scale", 1.0),
        keep_fraction=values.number_or("--keep-fraction", 1.0),
        num_prompts=values.count("--num-prompts"),
    )


def _inspect(args: argparse.Namespace) -> int:
    trace, plan = _opened(args)
    if args.plot is not None:
        from fineserve_shapes.tracetools.plotting import Plotter, checked  # here, since matplotlib takes a while

        plotter = Plotter(checked(args.plot))
        figures = inspection.inspect(plotter.seen(counted(plan, f"reading {trace.name}")))
    else:
        figures = inspection.inspect(counted(plan, f"reading {trace.name}"))
    report = inspection.with_survey(figures, trace.read_survey())
    report["warnings"] = _warned(trace, said=not args.json)
    if args.plot is not None:
        plotter.write(args.plot, report)
    _print(report, inspection.text(report), args.json)
    return 0


def _warned(trace: Trace, *, said: bool = False) -> list[str]:
    """What a run would warn of, at its start or when the trace has been read to its end; on stderr too, unless it is
    said in what is printed."""
    warnings = list(trace.read_survey().warnings or trace.opening.warnings)
    for warning in () if said else warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return warnings


def _fit(args: argparse.Namespace) -> int:
    values = Values(args)
    window_s = values.number_or("--parametric-window-seconds", 300.0)
    within_s = values.number_or("--burst-within", 0.0)
    if within_s < 0:
        raise InputError(f"--burst-within must be at least 0, got {within_s:g}")
    trace, plan = _opened(args)
    name = args.name or args.file.name.split(".")[0]
    if "/" in name or not name.strip("."):
        raise InputError(f"a class is a name, not a path, got {name!r} (--name)")
    found = fitting.fit(
        counted(plan, f"reading {trace.name}"), window_s=window_s, burst_within_s=within_s, seed=options.seed(values),
        fitted_to=values.text("--gamma-fitted-to") or "auto",
    )  # fmt: skip
    paths = fitting.write_fit(found, args.out, name, window_s)
    model = _model(found, paths, options.seed(values))
    report = {
        "name": name,
        "files": [str(path) for path in paths],
        "goodness": found.goodness(),
        "trace": found.figures,
        "model": model,
        "misfit": _misfit(found),
    }
    fitting.write_goodness(report, args.out / f"{name}_fit.json")
    _warned(trace)
    _print(report, fitting.text(report) + "\nwrote " + ", ".join(map(str, paths)), args.json)
    return 0


def _model(found: fitting.Fit, paths: list[Path], seed: int) -> dict[str, Any]:
    """Figures of a trace made from the parameters, over the span of the one that they were fitted to."""
    nb = paths[2] if found.fitted_to == "bursts" and len(paths) > 2 else None
    arrivals = open_parametric(ParametricOptions(gamma_params_csv=paths[0], jitter_ratio=0.0, nb_json=nb))
    lengths = RecordedPairs(*found.lengths.T.copy())
    plan = synthetic_plan(arrivals.arrivals, lengths, seed=seed, identity={}, endless=True, details={})
    span_s = max(found.figures["span_s"], 1e-6)
    return inspection.inspect(counted(plan.between(0.0, span_s).limited(COMPARED_ROWS), "making a trace to compare"))


def _misfit(found: fitting.Fit) -> str | None:
    """What to make of a bad fit."""
    if not found.misfits:
        return None
    return (
        f"in {100 * found.gamma.misfit_share:.3g} % of the windows the gaps are no gamma (KS at the 1 % level), so expect"
        " the burstiness at short times to differ; replay the trace itself where that matters"
    )


def _synth(args: argparse.Namespace) -> int:
    values = Values(args)
    duration_s = values.number("--duration")
    if duration_s is None or duration_s <= 0:
        raise InputError(f"say how many seconds to make, above 0, got {values.text('--duration')} (--duration)")
    made = synthesis.parametric(values, DATASETS)
    plan = synthesis.ended(made.plan.between(0.0, duration_s), values, None)
    for line in made.lines:
        print(line, file=sys.stderr)
    architecture, _, scale = (values.text("--model-class") or "").partition("_")
    rows = 0
    with trace_writer(args.out) as writer:
        for block in counted(plan, f"writing {args.out.name}"):
            writer.write(block.due_s, _rest(block, architecture, scale))
            rows += len(block)
    print(f"{args.out}: {rows:,} rows over {duration_s:g} s")
    return 0


def _rest(block: Block, architecture: str, scale: str) -> pa.Table:
    columns = {"input_length": pa.array(block.input_tokens), "output_length": pa.array(block.output_tokens)}
    for name, label in (("architecture", architecture), ("scale", scale)):
        if label:
            columns[name] = pa.array(np.full(len(block), label, dtype=object), pa.string())
    return pa.table(columns)


def _convert(args: argparse.Namespace) -> int:
    values = Values(args)
    scaling = Scaling(
        values.number_or("--time-scale", 1.0),
        values.number_or("--keep-fraction", 1.0),
        values.count("--num-prompts"),
    )
    survey = convert(args.file, args.out, options.trace_options(values), scaling)
    for warning in survey.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    tokens = survey.prefix_block_tokens
    untold = tokens not in (None, BLOCK_TOKENS) and args.out.suffix.lower() != ".parquet"
    print(f"{survey.line()}\nwrote {args.out}" + (f": read it with --prefix-block-tokens {tokens}" if untold else ""))
    return 0


def _print(report: dict[str, Any], text: str, as_json: bool) -> None:
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() if as_json else text)
