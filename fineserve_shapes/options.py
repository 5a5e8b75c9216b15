"""Options: the command line and the web form, once.

Every option is kept as the text that was typed and turned into a value when a run starts: the web form hands over text
whatever a parser was told, and what cannot be read is one clear line in both places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.decision import checked_share
from fineserve_shapes.measure.fidelity import Limits
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.measure.summary import of_nothing
from fineserve_shapes.measure.thresholds import Threshold
from fineserve_shapes.protocol.request import MAX_TOKENS_FIELDS
from fineserve_shapes.streams import Stream, names_of
from fineserve_shapes.values import Values, dest
from fineserve_shapes.workload.parametricoptions import EXTENSION_MODES, FITTED_TO, MODEL_CLASSES, NB_MODES
from fineserve_shapes.workload.traces.selection import parse_where
from fineserve_shapes.workload.traces.traceoptions import TIME_ORIGINS, UNITS, TraceOptions

if TYPE_CHECKING:
    import ssl

    from fineserve_shapes.client.connection import Deadlines
    from fineserve_shapes.engine.run import Settings


DRAIN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Option:
    """One option. default: the text that stands for it; "" is not given. A switch has the default None. joined: given more
    than once it is one text, with commas. aliases: what it may be called too, on the command line. A flag has no digits,
    since Locust's form would send its value under another name; an alias may."""

    flag: str
    help: str
    default: str | None = ""
    choices: tuple[str, ...] | None = None
    joined: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def dest(self) -> str:
        """The attribute that holds it."""
        return dest(self.flag)

    @property
    def flags(self) -> tuple[str, ...]:
        """All that it may be called."""
        return (self.flag, *self.aliases)

    @property
    def metavar(self) -> str:
        """What stands for a value in a list of options."""
        return self.dest.rpartition("_")[2].upper()

    @property
    def described(self) -> str:
        """The help with the default, as it is: Locust's form would show argparse's %(default)s."""
        return f"{self.help} (default: {self.default})" if self.default else self.help


SERVER = (
    Option("--backend", "what the server takes: vLLM's fields too, or plain OpenAI's", "vllm", ("vllm", "openai")),
    Option("--model", "model to ask for; by default the only one that the server has"),
    Option("--endpoint", "path of requests from the server's root, if --host does not lead to it, e.g. /my/completions"),
    Option("--extra-request-body", 'JSON object of fields to add or override, e.g. {"temperature": 0}; null removes one'),
    Option("--max-tokens-field", "what the server calls the number of tokens to generate", "max_tokens", MAX_TOKENS_FIELDS),
    Option("--disable-ignore-eos", "let answers end where the model ends them (vllm backend)", None),
    Option("--disable-stream", "ask for whole answers: no TTFT, TPOT or ITL", None),
    Option("--connect-timeout", "seconds to wait for a connection", "10"),
    Option("--progress-timeout", "seconds to wait for a next token, the first included", "300"),
    Option("--request-timeout", "seconds to wait for the end of an answer", "3600"),
    Option("--rate-limit-retries", "send a request again so often if its answer is 429, after its Retry-After (at most"
           " 60 s)", "0", aliases=("--retry-429",)),
    Option("--routing", "which of several servers (--host A,B) a request goes to: each in turn, or by the first block that"
           " its prompt shares with others", "round-robin", ("round-robin", "prefix")),
    Option("--api-key-env", "environment variable of each worker that holds the API key", "OPENAI_API_KEY"),
    Option("--skip-preflight", "start without a look at the server and its models first (needs --model)", None),
    Option("--ca-file", "trust the certificates in this PEM file in place of the system's (on every worker)"),
    Option("--insecure", "take any TLS certificate; the summary says so", None),
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
    Option("--prefix-block-tokens", "prompt tokens behind each of a trace's hash_ids, if not its form's (Mooncake: 512,"
           " Bailian: 16)"),
    Option("--max-model-len", "the model's context in tokens; without it lengths are replayed as they are"),
    Option("--missing-timestamp", "rows without a timestamp", "drop", ("drop", "error")),
    Option("--below-one", "rows with a length below 1", "drop", ("drop", "clamp", "error")),
    Option("--beyond-max-model-len", "rows longer than --max-model-len", "clamp", ("clamp", "drop", "error")),
    Option("--architecture", "replay only rows of this architecture, e.g. MoE"),
    Option("--scale", "replay only rows of this model scale, e.g. >100B"),
    Option("--where", "replay only rows whose column holds a value, exactly: COLUMN=VALUE; of several, all must hold",
           joined=True),
    Option("--time-origin", "trace second 0: the first usable row that is selected, or the first row of the whole trace,"
           " so that its parts keep their places beside each other", "selection", TIME_ORIGINS),
    Option("--start-at", "start of the slice to replay, in trace seconds from the first usable row", "0"),
    Option("--duration", "length of the slice to replay, in trace seconds"),
    Option("--spread-within", "draw arrivals anew within intervals of so many seconds (logs often hold whole ones)"),
    Option("--max-gap", "shorten longer gaps between arrivals to so many trace seconds"),
    Option("--time-scale", "above 1 is faster: 60 replays an hour in a minute", "1"),
    Option("--keep-fraction", "keep each request with this probability: fewer, and less bursty", "1"),
    Option("--num-prompts", "at most so many requests"),
)  # fmt: skip

_LAW = "a number, N(mean,sd), U(lowest,highest), L(mean,cv) or E(mean)"

_LENGTHS = (
    Option("--request-lengths-csv", "draw input and output lengths from here, in pairs: .csv, .jsonl, .parquet ..."),
    Option("--input-length", f"prompt length in tokens: {_LAW}"),
    Option("--output-length", f"output length in tokens: {_LAW}"),
    Option("--strata", "draw lengths by architecture and scale, with these shares: MoE/gt100B=0.3,Dense/lt10B=0.7"),
    Option("--input-length-column", "column of the prompt lengths in tokens, if not a known name"),
    Option("--output-length-column", "column of the output lengths in tokens, if not a known name"),
    Option("--max-model-len", "the model's context in tokens; without it lengths are taken as they are"),
    Option("--below-one", "recorded lengths below 1", "drop", ("drop", "clamp", "error")),
    Option("--beyond-max-model-len", "lengths beyond --max-model-len", "clamp", ("clamp", "drop", "error")),
)  # fmt: skip

_PREFIXES = (
    Option("--prefix-share", "let this share of the prompts begin with a common prefix, as with system prompts"),
    Option("--prefix-groups", "how many different prefixes", "1"),
    Option("--prefix-length", "length of a prefix in tokens; shorter prompts share none", "512"),
)  # fmt: skip

_SCALING = (
    Option("--rate-scale", "multiply the rate; burstiness stays", "1"),
    Option("--keep-fraction", "keep each request with this probability: fewer, and less bursty", "1"),
    Option("--num-prompts", "at most so many requests"),
)  # fmt: skip

POISSON = (
    Option("--request-rate", "requests per second; inf sends all at once (with --num-prompts)"),
    Option("--rate-profile", "a rate in pieces: 10@60,10..50@2m,50 is 10/s for 60 s, a ramp in 2 min, then 50/s"),
    Option("--burstiness", "shape of gamma gaps: 1 is Poisson, below 1 burstier, inf evenly spaced"),
    Option("--cv", "coefficient of variation of the gaps, instead of --burstiness: 1 is Poisson, 0 evenly spaced"),
    *_SCALING,
    *_LENGTHS,
    *_PREFIXES,
)  # fmt: skip

PARAMETRIC = (
    Option("--model-class", f"{', '.join(MODEL_CLASSES)}, or what the data root holds", MODEL_CLASSES[-1]),
    Option("--gamma-params-csv", "gamma windows, in place of the class's own"),
    Option("--parametric-data-root", "directory with gamma/ and nb/ of the FineServe release"),
    Option("--parametric-window-seconds", "length of a window where the file has no window columns", "300"),
    Option("--parametric-extension-mode", "how windows go on after the last one", "repeat_jitter", EXTENSION_MODES),
    Option("--parametric-jitter-ratio", "repeat_jitter: log deviation of rate and shape, per window", "0.05"),
    Option("--parametric-independent-windows", "model_sample: draw each window by itself, without the daily cycle", None),
    Option("--parametric-nb-json", "sizes of bursts, for any class"),
    Option("--disable-parametric-nb", "no bursts for Dense_lt10B", None, aliases=("--disable-parametric-nb-lt10b",)),
    Option("--nb-mode", "bursts at gamma instants, or counts in slots of a millisecond", "batch", NB_MODES),
    Option("--gamma-fitted-to", "what the gamma gaps lie between; of requests, bursts keep the rate", "bursts", FITTED_TO),
    *_SCALING,
    *_LENGTHS,
    *_PREFIXES,
)  # fmt: skip

MIX = (
    Option("--mix", "mix file (TOML): a table for each stream with its workload, host, model, SLO and further options"),
    Option("--request-trace-csv", "a trace that holds many models, in place of --mix: see --split-by"),
    Option("--split-by", "a stream for each value of this column of the trace, which is its model: one replay of all"),
    Option("--request-rate", "requests per second of all streams with a weight together"),
    Option("--time-scale", "of the whole mix; above 1 is faster: 60 sends an hour of it in a minute", "1"),
    Option("--rate-scale", "multiply the rate of every stream; burstiness stays", "1"),
    Option("--keep-fraction", "keep each request with this probability: fewer, and less bursty", "1"),
    Option("--num-prompts", "at most so many requests of the whole mix"),
)  # fmt: skip

JUDGED = ("--slo", "--max-lag", "--max-lag-share", "--max-rate-error", "--max-cv-error", "--max-dispersion-error",
          "--max-length-error")  # fmt: skip
"""Options of the run that a stream of a mix may have for itself."""

CAPACITY = (
    Option("--workload", "what is sent, and when: a locustfile's name", "poisson"),
    Option("--start-scale", "scale of the first step: 2 is the workload twice as fast", "1"),
    Option("--min-scale", "the lowest scale to be tried", "0.015625"),
    Option("--max-scale", "the highest scale to be tried", "64"),
    Option("--step-requests", "a step's requests at most, once settled; by default 50 over the share that may miss"),
    Option("--step-time", "a step's seconds at most, once settled, in place of --step-requests"),
    Option("--settle", "seconds from a step's start whose requests count nowhere; longer than most answers take", "30"),
    Option("--max-steps", "the search ends after so many steps", "20"),
    Option("--scales", "a sweep in place of a search: these scales, such as 0.5,1,2,4"),
    Option("--rates", "a sweep in place of a search: these rates in requests per second, such as 1,2,4,8"),
    Option("--compare-burstiness", "in place of a search a run for each of several kinds of arrivals, at one rate", None),
)  # fmt: skip

RUN = (
    Option("--max-concurrency", "at most so many requests in flight, over all workers: others wait, and are counted"),
    Option("--drain-timeout", "seconds that requests in flight have when a run is stopped before its plan ends",
           f"{DRAIN_TIMEOUT_S:g}"),
    Option("--output-file", "write the summary there: a JSON object, or one more line where the name ends in .jsonl; {run}"
           " in a file's name stands for the run's"),
    Option("--request-log", "write a row per request there: .parquet, .jsonl or .csv"),
    Option("--log-token-times", "put the time of every token into the request log", None),
    Option("--slo", "what makes an answer good, e.g. ttft=500ms,tpot=50ms (also ttft_from_due, e2e): gives goodput"),
    Option("--warmup-requests", "extra requests before the run begins, which count nowhere", "0"),
    Option("--warmup-seconds", "seconds from the start of the run whose requests count in the ledger alone", "0"),
    Option("--max-lag", "a valid run's lag p99 is at most that", "10ms"),
    Option("--max-lag-share", "... or at most this share of the mean gap between requests, if that is more", "0.05"),
    Option("--max-rate-error", "a valid run's rate is at most so far from the plan's", "0.05"),
    Option("--max-cv-error", "a valid run's gap CV is at most so far from the plan's", "0.05"),
    Option("--max-dispersion-error", "a valid run's dispersion is at most so far from the plan's", "0.1"),
    Option("--max-length-error", "a valid run's mean input and output lengths are at most so far from the plan's", "0.1"),
    Option("--max-ttft-error", "in a valid run late reading puts TTFT off by at most that at p99, a fifth at the median",
           "5ms"),
    Option("--max-clock-uncertainty", "a valid run's workers know the master's clock at least so well", "1ms"),
    Option("--fail-if-invalid", "exit with code 3 where the load asked for was not the load delivered", None),
    Option("--threshold", "bounds on figures of the summary, e.g. p99_ttft_ms<500,failed<=0: exit code 4 if one is missed",
           joined=True),
    Option("--slo-share", "what share of the planned requests must meet the SLO", "0.99"),
    Option("--fail-if-slo-missed", "exit with code 4 where fewer than --slo-share did", None),
    Option("--junit", "write the checks of --threshold and --fail-if-slo-missed there, as JUnit XML"),
    Option("--report", "write an HTML report there at the end: one file that opens without a network"),
    Option("--scrape-server-metrics", "auto (a vLLM server's /metrics, if it answers), off, or the page's URL", "auto"),
    Option("--prometheus-port", "PORT or HOST:PORT at which Prometheus finds the run's figures, without a login"),
    Option("--form", "what the web interface's start form has: the options that most runs need, or all", "short",
           ("short", "all")),
)  # fmt: skip


def trace_options(values: Values) -> TraceOptions:
    """How to read the trace."""
    return TraceOptions(
        timestamp_column=values.text("--timestamp-column"),
        input_length_column=values.text("--input-length-column"),
        output_length_column=values.text("--output-length-column"),
        timestamp_unit=values.text("--timestamp-unit") or "auto",
        prefix_block_tokens=values.count("--prefix-block-tokens"),
        max_model_len=values.count("--max-model-len"),
        missing_timestamp=values.text("--missing-timestamp") or "drop",
        below_one=values.text("--below-one") or "drop",
        beyond_max_model_len=values.text("--beyond-max-model-len") or "clamp",
        architecture=values.text("--architecture"),
        scale=values.text("--scale"),
        where=parse_where(values.text("--where") or ""),
        time_origin=values.text("--time-origin") or "selection",
        start_at_s=values.number("--start-at") or 0.0,
        duration_s=values.number("--duration"),
        spread_within_s=values.number("--spread-within"),
        max_gap_s=values.number("--max-gap"),
        seed=seed(values),
    )


def host(own: Mapping[str, Any], common: str | None, of_class: str | None) -> str | None:
    """Where a stream's requests go: to its own host, or else the run's, or else that of its user class."""
    return own.get("host") or common or of_class


def hosts(text: str | None) -> list[str]:
    """One or several, separated by commas."""
    return [host.strip() for host in (text or "").split(",") if host.strip()]


def deadlines(values: Values) -> Deadlines:
    """How long to wait."""
    from fineserve_shapes.client.connection import Deadlines  # here: the tools read options too, and have no engine

    given = {
        "connect_s": values.number("--connect-timeout"),
        "progress_s": values.number("--progress-timeout"),
        "request_s": values.number("--request-timeout"),
    }
    return Deadlines(**{name: value for name, value in given.items() if value is not None})


def tls(values: Values) -> ssl.SSLContext:
    """Whom to trust."""
    from fineserve_shapes.client.tls import tls_context

    return tls_context(values.text("--ca-file"), insecure=values.switch("--insecure"))


def slo(values: Values) -> Slo | None:
    """What makes an answer good."""
    asked = values.text("--slo")
    return None if asked is None else Slo.parse(asked)


def slo_of(streams: Sequence[Stream]) -> Slo | Slos | None:
    """What makes an answer good: of each stream of a mix, or of the one that there is; None where none has an SLO."""
    slos = Slos(tuple(slo(stream.values) for stream in streams))
    return (slos or None) if names_of(streams).mixed else slos.common


def limits(values: Values) -> Limits:
    """What a valid run keeps within."""
    found = {
        "lag_s": values.duration_s("--max-lag"),
        "lag_share": values.share("--max-lag-share"),
        "rate": values.share("--max-rate-error"),
        "gap_cv": values.share("--max-cv-error"),
        "dispersion": values.share("--max-dispersion-error"),
        "ttft_s": values.duration_s("--max-ttft-error"),
        "lengths": values.share("--max-length-error"),
        "uncertainty_s": values.duration_s("--max-clock-uncertainty"),
    }
    return Limits(**{name: value for name, value in found.items() if value is not None})


def settings(values: Values, run_time_s: float | None, streams: Sequence[Stream]) -> Settings:
    """How to run the plan of these streams."""
    from fineserve_shapes.engine.run import Settings

    names = names_of(streams)
    own = tuple(limits(stream.values) for stream in streams) if names.mixed else ()
    warmup_requests = values.count("--warmup-requests") or 0
    if not 0 <= warmup_requests <= 100_000:
        raise InputError(f"--warmup-requests must lie between 0 and 100000, got {warmup_requests}")
    max_concurrency = values.count("--max-concurrency")
    if max_concurrency is not None and max_concurrency < 1:
        raise InputError(f"--max-concurrency must be at least 1, got {max_concurrency}")
    return Settings(
        run_time_s=run_time_s,
        names=names,
        slo=slo_of(streams),
        limits=Limits.widest(own) if own else limits(values),
        limits_of_streams=own,
        warmup_requests=warmup_requests,
        warmup_s=values.not_negative("--warmup-seconds"),
        request_log=values.file("--request-log"),
        token_times=values.switch("--log-token-times"),
        max_concurrency=max_concurrency,
    )


def drain_timeout_s(values: Values) -> float:
    """How long requests in flight have when a run, or a worker's part in it, is stopped."""
    return values.number_or("--drain-timeout", DRAIN_TIMEOUT_S)


def thresholds(values: Values, settings: Settings, extra: Mapping[str, Any] | None = None) -> list[Threshold]:
    """What the summary is to be held against. Raises InputError, before the run, for figures that no summary has too.
    extra: entries that the summary of this run has beside those of any."""
    found = Threshold.parse_all(values.text("--threshold") or "")
    share = checked_share(values.share("--slo-share") or 0.99)
    if values.switch("--fail-if-slo-missed"):
        if settings.slo is None:
            raise InputError("--fail-if-slo-missed needs an SLO, such as --slo ttft=500ms")
        found.append(Threshold("goodput.share", ">=", share))
    if found:
        nothing = of_nothing(settings.slo, settings.names) | dict(extra or {})
        for one in found:
            one.check(nothing)
    return found


def seed(values: Values) -> int:
    """The seed, not negative."""
    value = values.count("--seed") or 0
    if value < 0:
        raise InputError(f"the seed must not be negative, got {value} (--seed)")
    return value
