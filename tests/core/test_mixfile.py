"""Mix files: what may stand in them, what becomes of it, and the one line where it may not."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from fineserve_shapes.errors import InputError
from fineserve_shapes.leases.lease import Row, rows_of
from fineserve_shapes.options import settings
from fineserve_shapes.planning import mixing
from fineserve_shapes.planning.mixfile import Mix, checked_mix, read_mix, seed_of
from fineserve_shapes.planning.mixing import mixed
from fineserve_shapes.shipped import SAMPLE_MIX, SAMPLE_TRACE
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values
from fineserve_shapes.workload.traces.trace import Trace, TraceOptions, open_trace

MIX = """
request_rate = 8

[defaults]
kind = "poisson"
slo = "ttft=1s"
input_length = 50
time_scale = 2            # of streams that are replays
seed = 3

[streams.chat]
weight = 3
model = "small"
host = "http://a:1"
extra_request_body = { temperature = 0, stop = ["x"] }

[streams.agents]
weight = 1
output-length = "U(5,9)"
disable_stream = true

[streams.old]
kind = "replay"
request_trace_csv = "trace.csv"
timestamp_unit = "s"
slo = "e2e=9s"
user = "Chat"
"""


def written(folder: Path, text: str = MIX) -> Path:
    path = folder / "mix.toml"
    path.write_text(text)
    (folder / "trace.csv").write_text("timestamp,input_length,output_length\n" + "".join(
        f"{second},{10 + second},5\n" for second in range(0, 100, 4)))  # fmt: skip
    return path


def read(path: Path, whole: Values) -> tuple[Stream, ...]:
    return read_mix(path, whole).streams


def values(**given: object) -> Values:
    return Values(Namespace(**{"run_time": 60, **given}))


def by_stream(streams: tuple[Stream, ...], whole: Values) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {stream.name: [] for stream in streams}
    for block in mixed(Mix(streams), whole).plan.between(0.0, 60.0):
        for row in rows_of(block):
            found[streams[row.stream].name].append(row)
    return found


def told(rows: list[Row]) -> list[tuple[float, int, int, int]]:
    return [(row.due_s, row.input_tokens, row.output_tokens, row.position) for row in rows]


def test_a_stream_has_its_own_then_the_defaults_then_the_command_line(tmp_path: Path):
    whole = values(model="large", tokenizer="tok", slo="tpot=1s", request_rate="")
    chat, agents, old = read(written(tmp_path), whole)
    assert [(stream.name, stream.number, stream.user, stream.mixed) for stream in (chat, agents, old)] == [
        ("chat", 0, None, True), ("agents", 1, None, True), ("old", 2, "Chat", True)
    ]  # fmt: skip
    assert [stream.values.text("--model") for stream in (chat, agents, old)] == ["small", "large", "large"]
    assert [stream.values.text("--slo") for stream in (chat, agents, old)] == ["ttft=1s", "ttft=1s", "e2e=9s"]
    assert chat.values.text("--tokenizer") == "tok"
    assert chat.values.json_object("--extra-request-body") == {"temperature": 0, "stop": ["x"]}
    assert [stream.values.switch("--disable-stream") for stream in (chat, agents, old)] == [False, True, False]
    assert agents.values.text("--output-length") == "U(5,9)"
    assert old.values.path("--request-trace-csv") == (tmp_path / "trace.csv").absolute()
    assert old.values.number("--time-scale") == 2
    assert "time_scale" not in {key for key, value in chat.own.items() if value}
    assert [stream.values.number("--rate") for stream in (chat, agents, old)] == [6.0, 2.0, None]
    assert chat.own["host"] == "http://a:1"


def test_an_empty_text_is_no_value_of_a_path_either(tmp_path: Path):
    """As on the command line: it takes back what the defaults say."""
    text = """
        [defaults]
        kind = "poisson"
        tokenizer = "some/model"
        [streams.plain]
        tokenizer = ""
    """
    (plain,) = read(written(tmp_path, text), values())
    assert plain.values.text("--tokenizer") is None


def test_the_command_lines_rate_is_divided_by_the_weights(tmp_path: Path):
    chat, agents, _ = read(written(tmp_path), values(request_rate="40"))
    assert (chat.values.number("--rate"), agents.values.number("--rate")) == (30.0, 10.0)


def test_a_plan_has_each_streams_rate_lengths_and_end(tmp_path: Path):
    streams = read(written(tmp_path), values())
    rows = by_stream(streams, values())
    assert len(rows["chat"]) == pytest.approx(360, abs=5 * 19)
    assert len(rows["agents"]) == pytest.approx(120, abs=5 * 11)
    assert {row.input_tokens for row in rows["chat"]} == {50}
    assert {row.output_tokens for row in rows["agents"]} == {5, 6, 7, 8, 9}
    assert [row.due_s for row in rows["old"]] == [2.0 * number for number in range(25)]


def test_the_wholes_scales_and_a_streams_own_compose(tmp_path: Path):
    streams = read(written(tmp_path), values())
    plain = by_stream(streams, values())
    halved = by_stream(streams, values(time_scale="0.5"))
    doubled = by_stream(streams, values(rate_scale="2"))
    for name, rows in plain.items():
        early = [2 * row.due_s for row in rows if row.due_s < 30]
        assert [row.due_s for row in halved[name]] == pytest.approx(early)
        assert [2 * row.due_s for row in doubled[name]][: len(rows)] == pytest.approx([row.due_s for row in rows])


@pytest.mark.parametrize("options", [{}, {"keep_fraction": "0.5", "time_scale": "2", "rate_scale": "1.5"}])
def test_no_stream_depends_on_another(tmp_path: Path, options: dict[str, str]):
    whole = values(**options)
    text = MIX.replace("[streams.chat]\nweight = 3", "[streams.chat]\nrate = 6")
    text = text.replace("[streams.agents]\nweight = 1", "[streams.agents]\nrate = 2")
    three = by_stream(read(written(tmp_path, text), whole), whole)
    head, _, agents, old = text.split("[streams.")
    fewer = by_stream(read(written(tmp_path, "[streams.".join((head, old, agents))), whole), whole)
    assert list(fewer) == ["old", "agents"]
    for name, rows in fewer.items():
        assert told(rows) == told(three[name])
    assert told(three["chat"]) != told(three["agents"])


def test_a_fraction_of_the_whole_is_one_of_each_stream(tmp_path: Path):
    streams = read(written(tmp_path), values())
    plain, kept = by_stream(streams, values()), by_stream(streams, values(keep_fraction="0.5"))
    assert len(kept["chat"]) == pytest.approx(len(plain["chat"]) / 2, abs=5 * 10)
    assert {row.due_s for row in kept["old"]} < {row.due_s for row in plain["old"]}


def test_a_streams_seed_is_made_of_the_runs_and_its_name():
    assert seed_of(1, "chat") == seed_of(1, "chat")
    assert len({seed_of(seed, name) for seed in range(3) for name in ("chat", "agents", "old")}) == 9


def test_rates_of_replays_and_windows_are_brought_to_what_is_asked(tmp_path: Path):
    text = f"""
    [streams.trace]
    kind = "replay"
    request_trace_csv = "{SAMPLE_TRACE}"
    rate = 10
    [streams.windows]
    kind = "parametric"
    model_class = "Dense_10to30B"
    rate = 5
    num_prompts = 400
    """
    streams = read(written(tmp_path, text), values())
    trace = mixed(Mix(streams[:1]), values()).plan
    assert trace.rate_rps == pytest.approx(10, rel=0.01)
    rows = [row for block in mixed(Mix(streams[1:]), values()).plan for row in rows_of(block)]
    assert len(rows) == 400
    # windows of five minutes have rates of their own: the first one is near the mean alone
    assert 400 / rows[-1].due_s == pytest.approx(5, rel=0.8)


def test_a_mix_can_be_written_in_python():
    own = {"kind": "poisson", "request_rate": 3, "disable_stream": True, "num_prompts": 5}
    (stream,) = checked_mix([Stream("chat", user="Chat", own=own)], values()).streams  # type: ignore[arg-type]
    assert (stream.user, stream.values.number("--request-rate"), stream.values.switch("--disable-stream")) == (
        "Chat", 3.0, True
    )  # fmt: skip
    assert mixed(Mix((stream,)), values()).plan.requests == 5


def test_each_stream_is_judged_by_its_own_bounds_and_the_whole_by_the_widest(tmp_path: Path):
    """Its own are those of its table, else the command line's."""
    text = """
        [defaults]
        kind = "poisson"
        [streams.chat]
        [streams.batch]
        max_lag = "1s"
        max_length_error = "1"
    """
    given = values(max_lag="20ms", max_cv_error="0.2")
    found = settings(given, 60.0, read(written(tmp_path, text), given))
    chat, batch = found.limits_of_streams
    assert (chat.lag_s, chat.lengths, chat.gap_cv) == (0.02, 0.1, 0.2)
    assert (batch.lag_s, batch.lengths, batch.gap_cv) == (1.0, 1.0, 0.2)
    assert found.limits == batch


def test_the_shipped_mix_holds_the_four_classes():
    streams = read(SAMPLE_MIX, values())
    rows = by_stream(streams, values())
    assert [stream.values.text("--model-class") for stream in streams] == [
        "Dense_lt10B", "Dense_10to30B", "Dense_30to100B", "MoE_gt100B"
    ]  # fmt: skip
    assert all(len(found) > 10 for found in rows.values())
    assert np.argmax([len(found) for found in rows.values()]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[streams.a]\nkind = 'poisson'\nrequest_rat = 3", "[a]: there is no 'request_rat': did you mean request_rate?"),
        ("[streams.a]\nkind = 'poison'", "[a]: kind is one of replay, poisson, parametric, got 'poison'"),
        ("[streams.a]\nmodel = 'm'", "[a]: it says no kind: replay or poisson or parametric"),
        ("[streams.a]\nkind = 'poisson'\ntime_scale = 2",
         "[a]: time_scale is read by replay, not by a stream of kind poisson"),
        ("[streams.a]\nkind = 'poisson'\nrequest_log = 'x'", "[a]: request_log is the whole run's: give it on the command"),
        ("[streams.a]\nkind = 'poisson'\ndisable_stream = 'yes'", "[a]: disable_stream is true or false, got 'yes'"),
        ("[streams.a]\nkind = 'poisson'\nrate = true", "[a]: rate is a text, a number or a table, got True"),
        ("[streams.a]\nkind = 'poisson'\nbackend = 'tgi'", "[a]: backend is one of vllm, openai, got 'tgi'"),
        ("[streams.a]\nkind = 'poisson'\nweight = 1", "stream a has a weight: say the rate of all such streams together"),
        ("request_rate = 1\n[streams.a]\nkind = 'poisson'\nweight = 1\nrate = 2", "stream a has a weight and a rate"),
        ("request_rate = 1\n[streams.a]\nkind = 'poisson'\nweight = -1", "stream a: a weight is above 0, got -1"),
        ("[streams.'a b']\nkind = 'poisson'", "the name of a stream is of letters, digits, '_', '.' and '-'"),
        ("[streams.total]\nkind = 'poisson'", "a stream cannot be called 'total'"),
        ("[default]\nkind = 'poisson'", "there is no 'default': did you mean defaults?"),
        ("[defaults]\nkin = 'poisson'\n[streams.a]", "[defaults]: there is no 'kin': did you mean kind?"),
        ("[defaults]\nkind = 'poisson'", "it has no [streams.NAME] tables"),
        ("streams = 3", "it has no [streams.NAME] tables"),
        ("[streams]\na = 3", "[streams.a] is no table"),
        ("[streams.a", "is no TOML"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_with_the_place_and_the_way_out(tmp_path: Path, text: str, said: str):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as refused:
        read(path, values())
    line = str(refused.value)
    assert said.replace("[a]", "stream a") in line
    assert line.startswith(str(path))
    assert line.endswith("(--mix)")
    assert "\n" not in line.partition("is no TOML")[0]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("request_rate = 0", "stream a: --request-rate must be positive, got 0"),
        ("request_trace_csv = 'nosuch.csv'\nkind = 'replay'", "stream a: nosuch.csv: there is no such file"),
        ("rate = -2", "stream a: a rate is above 0, got -2"),
        ("rate_profile = '1@5,2@5'\nrate = 3", "stream a: its mean rate is not known"),
    ],
)
def test_what_a_stream_cannot_have_names_the_stream(tmp_path: Path, table: str, said: str):
    kind = "" if "kind" in table else "kind = 'poisson'\n"
    streams = read(written(tmp_path, f"[streams.a]\n{kind}{table}"), values())
    with pytest.raises(InputError, match=f"^{said}"):
        mixed(Mix(streams), values())


def test_without_an_end_a_mix_asks_for_one(tmp_path: Path):
    streams = read(written(tmp_path), values(run_time=None))
    with pytest.raises(InputError, match="say when to stop"):
        mixed(Mix(streams), values(run_time=None))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read .*nosuch.toml: no such file or directory \(--mix\)"):
        read(tmp_path / "nosuch.toml", values())


ALIKE = """
    [defaults]
    kind = "replay"
    request_trace_csv = "trace.csv"
    timestamp_unit = "s"
    spread_within = 4
    keep_fraction = 0.5
    [streams.a]
    [streams.b]
    rate = 2
    [streams.late]
    start_at = 40
"""


def test_a_file_is_read_once_for_all_streams_that_read_it_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Their seeds are their own: what is drawn is what it would be for each alone."""
    opened: list[TraceOptions] = []

    def counted(path: Path, options: TraceOptions) -> Trace:
        opened.append(options)
        return open_trace(path, options)

    monkeypatch.setattr(mixing, "open_trace", counted)
    streams = read(written(tmp_path, ALIKE), values())
    found = by_stream(streams, values())
    assert [one.start_at_s for one in opened] == [0.0, 40.0]
    assert told(found["a"]) != told(found["b"])
    for stream in streams:
        assert told(by_stream((stream,), values())[stream.name]) == told(found[stream.name])


SPLIT = """
[streams.serving]
kind = "replay"
request_trace_csv = "many.csv"
timestamp_unit = "s"
split_by = "model"
"""


def many(folder: Path) -> Path:
    lines = [f"{second}.5,{10 + second},5,{('org/small', 'large', '', 'old')[second % 4]}" for second in range(40)]
    (folder / "many.csv").write_text("\n".join(["timestamp,input_length,output_length,model", *lines]) + "\n")
    return folder


def test_one_trace_of_many_models_becomes_a_stream_for_each(tmp_path: Path):
    """At the trace's own times: together they are the trace, but for the rows that say no model."""
    mix = read_mix(written(many(tmp_path), SPLIT), values())
    assert [(stream.name, stream.values.text("--model")) for stream in mix.streams] == [
        ("large", "large"), ("old", "old"), ("org-small", "org/small")
    ]  # fmt: skip
    assert mix.unplaced == 10
    assert mix.notes == ("stream serving: 10 rows are in no stream, by their model: (none) (10)",)
    rows = by_stream(mix.streams, values())
    assert [row.input_tokens for row in rows["org-small"]] == list(range(10, 50, 4))
    assert [row.due_s for row in rows["large"]] == [1.0 + 4 * number for number in range(10)]
    plan = mixed(mix, values()).plan
    assert plan.description()["unplaced"] == 10


def test_values_may_have_places_and_shares_and_others_are_counted(tmp_path: Path):
    text = (
        SPLIT
        + """
    [streams.serving.split."org/small"]
    name = "small"
    model = "tiny"
    host = "http://a:1"
    [streams.serving.split.large]
    share = 0.5
    [streams.steady]
    kind = "poisson"
    """
    )
    mix = read_mix(written(many(tmp_path), text), values(model="whatever"))
    assert [(stream.name, stream.values.text("--model"), stream.own.get("host")) for stream in mix.streams] == [
        ("small", "tiny", "http://a:1"), ("large", "whatever", None), ("steady", "whatever", None)
    ]  # fmt: skip
    assert mix.unplaced == 20
    assert len(by_stream(mix.streams, values())["large"]) < 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SPLIT.replace('"model"', '"modl"'), "modl"),
        (SPLIT + "[streams.serving.split.lrge]", "no usable row has model lrge: there are"),
        (SPLIT + "[streams.serving.split]\nlarge = 3", "split.large is no table"),
        (SPLIT + "[streams.serving.split.large]\nhos = 'x'", "there is no 'hos': did you mean host?"),
        (
            "[streams.a]\nkind = 'poisson'\nsplit_by = 'model'",
            "split_by is the name of a column of a trace that is replayed",
        ),
        (SPLIT + "[streams.large]\nkind = 'poisson'", "two streams are called large"),
    ],
)
def test_what_cannot_be_split_is_one_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(InputError) as refused:
        read_mix(written(many(tmp_path), text), values())
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
