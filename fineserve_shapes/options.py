"""Options: the command line and the web form, once.

Every option is kept as the text that was typed and turned into a value when a run starts: the web form hands over text
whatever a parser was told, and what cannot be read is one clear line in both places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fineserve_shapes.engine.client import Deadlines
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.traceoptions import UNITS, TraceOptions


@dataclass(frozen=True, slots=True)
class Option:
    """One option. default: the text that stands for it; "" is not given. A switch has the default None."""

    flag: str
    help: str
    default: str | None = ""
    choices: tuple[str, ...] | None = None

    @property
    def dest(self) -> str:
        """The attribute that holds it."""
        return self.flag.removeprefix("--").replace("-", "_")


SERVER = (
    Option("--backend", "what the server takes: vLLM's fields too, or plain OpenAI's", "vllm", ("vllm", "openai")),
    Option("--model", "model to ask for; by default the only one that the server has"),
    Option("--extra-request-body", 'JSON object of further fields, e.g. {"temperature": 0}; null removes a field'),
    Option("--disable-ignore-eos", "let answers end where the model ends them (vllm backend)", None),
    Option("--disable-stream", "ask for whole answers: no TTFT, TPOT or ITL", None),
    Option("--connect-timeout", "seconds to wait for a connection", "10"),
    Option("--progress-timeout", "seconds to wait for a next token, the first included", "300"),
    Option("--request-timeout", "seconds to wait for the end of an answer", "3600"),
    Option("--retry-429", "send a request again so often if its answer is 429, after its Retry-After (at most 60 s)", "0"),
    Option("--skip-preflight", "start without a look at the server and its models first (needs --model)", None),
)  # fmt: skip

PROMPTS = (
    Option("--tokenizer", "directory or name of the model's tokenizer: text prompts of exactly the asked length"),
    Option("--prompt-form", "token ids or text; auto: ids where vLLM takes them", "auto", ("auto", "tokens", "text")),
    Option("--dataset-path", "ShareGPT JSON, or a list of objects with input_text, to make prompts of (on every worker)"),
    Option("--prompt-suffix", "text at the end of each prompt; counts in its length"),
    Option("--vocab-size", "how many token ids the model has, for token-id prompts without a tokenizer", "4000"),
    Option("--apply-chat-template", "put the tokenizer's chat template around completion prompts", None),
    Option("--seed", "seed of everything random: the same seed, the same plan and prompts", "0"),
)  # fmt: skip

TRACE = (
    Option("--request-trace-csv", "the trace to replay: .csv, .csv.gz, .csv.zst, .jsonl or .parquet"),
    Option("--timestamp-column", "column of the arrival times, if not a known name"),
    Option("--input-length-column", "column of the prompt lengths in tokens, if not a known name"),
    Option("--output-length-column", "column of the output lengths in tokens, if not a known name"),
    Option("--timestamp-unit", "unit of the arrival times", "auto", UNITS),
    Option("--max-model-len", "the model's context in tokens; without it lengths are replayed as they are"),
    Option("--missing-timestamp", "rows without a timestamp", "drop", ("drop", "error")),
    Option("--below-one", "rows with a length below 1", "drop", ("drop", "clamp", "error")),
    Option("--beyond-max-model-len", "rows longer than --max-model-len", "clamp", ("clamp", "drop", "error")),
    Option("--architecture", "replay only rows of this architecture, e.g. MoE"),
    Option("--scale", "replay only rows of this model scale, e.g. >100B"),
    Option("--start-at", "start of the slice to replay, in trace seconds from the first usable row", "0"),
    Option("--duration", "length of the slice to replay, in trace seconds"),
    Option("--spread-within", "draw arrivals anew within intervals of so many seconds (logs often hold whole ones)"),
    Option("--max-gap", "shorten longer gaps between arrivals to so many trace seconds"),
    Option("--time-scale", "above 1 is faster: 60 replays an hour in a minute", "1"),
    Option("--num-prompts", "at most so many requests"),
)  # fmt: skip

RUN = (
    Option("--max-concurrency", "at most so many requests in flight, over all workers: others wait, and are counted"),
    Option("--drain-timeout", "seconds that requests in flight have when a run is stopped before its plan ends", "30"),
    Option("--output-file", "write the summary there: a JSON object, or one more line where the name ends in .jsonl"),
)  # fmt: skip


def add(parser: Any, options: Iterable[Option]) -> None:
    """Add options to Locust's parser (not in groups: those vanish from the web form), each once."""
    known = {string for action in parser._actions for string in action.option_strings}
    for option in options:
        if option.flag in known:
            continue
        env_var = "LOCUST_" + option.dest.upper()
        if option.default is None:
            parser.add_argument(option.flag, action="store_true", default=False, env_var=env_var, help=option.help)
        else:
            shown = option.help + (" (default: %(default)s)" if option.default else "")
            parser.add_argument(
                option.flag, default=option.default, choices=option.choices, env_var=env_var, help=shown,
                metavar=None if option.choices else option.dest.rpartition("_")[2].upper(),
            )  # fmt: skip


class Values:
    """Options as values. The attributes of a parsed command line or a submitted form go in; InputError names the flag."""

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed

    def text(self, flag: str) -> str | None:
        """What was typed, or None."""
        value = getattr(self._parsed, Option(flag, "").dest, None)
        text = "" if value is None else str(value).strip()
        return text or None

    def switch(self, flag: str) -> bool:
        """Whether it is on."""
        return bool(getattr(self._parsed, Option(flag, "").dest, False))

    def number(self, flag: str) -> float | None:
        """A finite number."""
        value: float | None = self._read(flag, float, "a number")
        return value

    def count(self, flag: str) -> int | None:
        """A whole number."""
        value: int | None = self._read(flag, int, "a whole number")
        return value

    def path(self, flag: str) -> Path | None:
        """A path."""
        text = self.text(flag)
        return None if text is None else Path(text)

    def json_object(self, flag: str) -> dict[str, object]:
        """A JSON object; empty where none was given."""
        text = self.text(flag)
        if text is None:
            return {}
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{flag} must be a JSON object, got {text!r}: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{flag} must be a JSON object, got {text!r}")
        return value

    def _read(self, flag: str, kind: Callable[[str], Any], what: str) -> Any:
        text = self.text(flag)
        if text is None:
            return None
        try:
            value = kind(text.replace("_", " "))  # int() would take 1_000, which no other place does
        except ValueError:
            raise InputError(f"{flag} must be {what}, got {text!r}") from None
        if not math.isfinite(value):
            raise InputError(f"{flag} must be {what}, got {text!r}")
        return value


def trace_options(values: Values) -> TraceOptions:
    """How to read the trace."""
    return TraceOptions(
        timestamp_column=values.text("--timestamp-column"),
        input_length_column=values.text("--input-length-column"),
        output_length_column=values.text("--output-length-column"),
        timestamp_unit=values.text("--timestamp-unit") or "auto",
        max_model_len=values.count("--max-model-len"),
        missing_timestamp=values.text("--missing-timestamp") or "drop",
        below_one=values.text("--below-one") or "drop",
        beyond_max_model_len=values.text("--beyond-max-model-len") or "clamp",
        architecture=values.text("--architecture"),
        scale=values.text("--scale"),
        start_at_s=values.number("--start-at") or 0.0,
        duration_s=values.number("--duration"),
        spread_within_s=values.number("--spread-within"),
        max_gap_s=values.number("--max-gap"),
        seed=seed(values),
    )


def deadlines(values: Values) -> Deadlines:
    """How long to wait."""
    given = {
        "connect_s": values.number("--connect-timeout"),
        "progress_s": values.number("--progress-timeout"),
        "request_s": values.number("--request-timeout"),
    }
    return Deadlines(**{name: value for name, value in given.items() if value is not None})


def seed(values: Values) -> int:
    """The seed, not negative."""
    value = values.count("--seed") or 0
    if value < 0:
        raise InputError(f"the seed must not be negative, got {value} (--seed)")
    return value


def max_concurrency(values: Values) -> int | None:
    """How many requests may be in flight; None: as many as are due."""
    value = values.count("--max-concurrency")
    if value is not None and value < 1:
        raise InputError(f"--max-concurrency must be at least 1, got {value}")
    return value
