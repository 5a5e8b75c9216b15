"""StartForm: which options Locust's start form shows, in which order, and with which values.

The form has the options that most runs need, in the order in which one thinks of them; `--form all` shows the rest too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fineserve_shapes import commandline, options
from fineserve_shapes.options import Option

SHOWN = (
    "--mix",
    "--model",
    "--workload",
    "--request-trace-csv",
    "--timestamp-unit",
    "--model-class",
    "--request-rate",
    "--rate-profile",
    "--input-length",
    "--output-length",
    "--time-scale",
    "--rate-scale",
    "--start-at",
    "--duration",
    "--num-prompts",
    "--slo",
    "--start-scale",
    "--step-requests",
    "--settle",
    "--scales",
    "--max-concurrency",
    "--request-log",
    "--report",
    "--output-file",
)
"""What the short form has of our options, in its order; host and run time, which are Locust's own, stand before them."""

_TABLES = (
    options.TRACE, options.POISSON, options.PARAMETRIC, options.MIX, options.CAPACITY, options.SERVER, options.PROMPTS,
    options.RUN,
)  # fmt: skip
HIDDEN = frozenset(option.dest for table in _TABLES for option in table if option.flag not in SHOWN)
"""The fields that the short form leaves out: ours alone, since those that a locustfile adds are there to be seen."""


def add_options(parser: Any, asked: Iterable[Option]) -> None:
    """Add options to Locust's parser, those of the short form first."""
    place = {flag: number for number, flag in enumerate(SHOWN)}
    commandline.add(parser, sorted(asked, key=lambda option: place.get(option.flag, len(place))))


def install(web_ui: Any) -> None:
    """Have the form show what it is to, in our order, and what the last run was started with when it is loaded again.

    Locust would show all fields, by name, with the values of the command line. A secret is not sent back.
    """
    web_ui.app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}
    update = web_ui.update_template_args

    def update_form() -> None:
        update()
        given = vars(web_ui.environment.parsed_options)
        hidden = {"form"} if given.get("form") == "all" else HIDDEN
        web_ui.template_args["extra_options"] = {
            name: field if field["is_secret"] or name not in given else {**field, "default_value": given[name]}
            for name, field in web_ui.template_args["extra_options"].items()
            if name not in hidden
        }

    web_ui.update_template_args = update_form
