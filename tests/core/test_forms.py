"""Published traces known by their columns: small files of exactly their forms, with values of our own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from traces import read, rows

from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.recordedpairs import read_pairs
from fineserve_shapes.workload.traces import jsonlfile
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace

Write = Callable[..., Path]

# --- the agents' trace: a session a line


def call(
    at_s: float, prompt: int | None, completion: int | None, model: str = "Model A", **more: object
) -> dict[str, Any]:
    tokens = {"prompt": prompt, "completion": completion, "cached": 0, "cached_pct": 0.0}
    return {
        "message_id": f"m{at_s}",
        "timestamp": f"2026-06-01T00:00:{at_s:09.6f}+00:00",
        "duration_ms": 1500.0,
        "initiator_type": "user",
        "model": model,
        "result": "Success",
        "status_code": "OK",
        "tokens": tokens,
        "message_metadata": [{"type": "System", "role": "system", "sequenceId": 0, "token_len": 3}],
    } | more


def session(name: str, *turns: list[dict[str, Any]]) -> str:
    return json.dumps(
        {
            "session_id": name,
            "date": "2026-06-01",
            "turns": [
                {"turn_id": f"{name}-{number}", "llm_calls": calls, "tool_batches": [{"timestamp": "x"}]}
                for number, calls in enumerate(turns)
            ],
        }
    )


AGENTS = (
    session("s1", [call(1, 10, 5), call(4.5, 30, 6, "Model B")], [call(9, 50, 7)]),
    session("s2", [], [call(0.25, 20, 8, "Model B", result="UserCancel")]),
    session("s3"),
)


def test_each_call_of_a_session_is_a_request_at_its_own_time(write: Write) -> None:
    trace = open_trace(write(*AGENTS, name="t.jsonl"))
    assert rows(trace) == [(0.0, 20, 8), (0.75, 10, 5), (4.25, 30, 6), (8.75, 50, 7)]
    assert trace.survey.unit_reason == "they are written as date-times"
    assert (trace.survey.rows, trace.survey.prefix_block_tokens) == (4, None)


def test_calls_are_selected_by_model_result_and_session(write: Write) -> None:
    path = write(*AGENTS, name="t.jsonl")
    for where, lengths in (
        ((("model", "Model B"),), [20, 30]),
        ((("model", "Model B"), ("result", "Success")), [30]),
        ((("session_id", "s1"),), [10, 30, 50]),
        ((("turn_id", "s1-1"),), [50]),
    ):
        assert [row[1] for row in rows(open_trace(path, TraceOptions(where=where)))] == lengths


@pytest.mark.parametrize("first", [0, 1])
def test_shards_may_be_put_one_behind_the_other(tmp_path: Path, first: int) -> None:
    """Compressed as they are, which gzip's format allows."""
    shards = [gzip.compress(f"{line}\n".encode()) for line in AGENTS]
    path = tmp_path / "day.jsonl.gz"
    path.write_bytes(b"".join(shards[first:]))
    assert len(rows(open_trace(path))) == (4, 1)[first]


@pytest.mark.parametrize("chunk_rows", [1, 2, 3])
def test_a_long_file_of_sessions_is_read_call_by_call(write: Write, chunk_rows: int) -> None:
    path = write(*(session(str(at), [call(at, at + 1, 1)], [call(at, at + 2, 1)]) for at in range(20)), name="t.jsonl")
    trace = open_trace(path, chunk_rows=chunk_rows, memory_rows=5)
    assert [row[1] for row in rows(trace)] == [length for at in range(20) for length in (at + 1, at + 2)]


def test_a_call_without_a_length_or_a_time_is_named_by_its_line(write: Write) -> None:
    with pytest.raises(InputError, match=r"row 3 \(line 3\), column tokens.completion: no value where each row must"):
        open_trace(
            write(
                AGENTS[2],
                session("s", [call(1, 1, 1), call(2, 1, 1)]),
                session("t", [call(3, 1, None)]),
                name="t.jsonl",
            )
        )
    path = write(session("s", [call(1, 1, 1), call(2, 1, 1, timestamp="soon")]), name="t.jsonl")
    with pytest.raises(InputError, match=r"row 2 \(line 1\), column timestamp: 'soon' is no date-time"):
        open_trace(path)


@pytest.mark.parametrize(
    "line",
    ['{"turns": [1]}', '{"turns": [{"llm_calls": 5}]}', '{"turns": [{"llm_calls": [[]]}]}', '{"turns": 5}', "[]"],
)
def test_a_line_that_is_no_session_is_named(write: Write, line: str) -> None:
    with pytest.raises(InputError, match=r"line 2(:| is no JSON object)") as caught:
        open_trace(write(AGENTS[0], line, name="t.jsonl"))
    assert "\n" not in str(caught.value)


def test_a_line_without_a_turn_has_no_call(write: Write) -> None:
    assert len(rows(open_trace(write(AGENTS[0], "{}", '{"turns": null}', '{"turns": [{}]}', name="t.jsonl")))) == 3
    with pytest.raises(InputError, match="hold sessions without a call"):
        open_trace(write(AGENTS[2], name="t.jsonl"))


def test_the_segments_of_prompts_are_not_held(write: Write) -> None:
    assert "message_metadata" not in jsonlfile.JsonlFile(write(*AGENTS, name="t.jsonl")).names


# --- SwissAI


def request(at: str, inputs: int | None, outputs: int | None, **more: object) -> str:
    return json.dumps(
        {
            "id": at, "status": "DEFAULT", "created_at": at, "finished_at": at, "model": "some/model-8b",
            "model_parameters": {"temperature": 0, "max_tokens": 256},
            "reported_token_input": inputs, "reported_token_output": outputs,
        } | more
    )  # fmt: skip


SWISSAI = (
    request("2024-07-17 13:56:49.399", 23, 38),
    request("2024-07-17 13:56:50.399", -1, -1),
    request("2024-07-17 13:56:51.399", 5, -1, model="other"),
    request("2024-07-17 13:56:52.899", 7, 0),
    request("2024-07-17 13:56:53.899", 9, 2, model="other", model_parameters={"top_p": [1]}),
    request("2024-07-17 13:56:54.899", None, 2, status="ERROR"),
)


def test_lengths_that_were_not_recorded_are_counted_apart(write: Write) -> None:
    path = write(*SWISSAI, name="t.jsonl")
    trace = open_trace(path)
    assert rows(trace) == [(0.0, 23, 38), (4.5, 9, 2)]
    assert trace.survey.dropped == {
        "missing_timestamp": 0, "below_one": 1, "beyond_max_model_len": 0, "unknown_length": 3,
    }  # fmt: skip
    assert "3 unknown_length" in trace.survey.line()
    assert rows(open_trace(path, TraceOptions(where=(("model", "other"),)))) == [(0.0, 9, 2)]


def test_a_length_that_was_not_recorded_is_never_made_one(write: Write) -> None:
    """A policy for short lengths is none for unknown ones."""
    path = write(*SWISSAI, name="t.jsonl")
    assert rows(open_trace(path, TraceOptions(below_one="clamp"))) == [(0.0, 23, 38), (3.5, 7, 1), (4.5, 9, 2)]
    assert "2 rows" in read_pairs(path, TraceOptions()).line


# --- Azure with images


IMAGES = (
    "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
    "2024-10-15T12:00:00.269Z,0,770,491",
    "2024-10-15T12:00:01.269Z,1,949,126",
    "2024-10-15T12:00:02.269Z,0,0,1",
    "2024-10-15T12:00:03.269Z,,78,5",
    "2024-10-15T12:00:04.269Z,16,4564,137",
)


def test_requests_with_images_are_dropped_and_counted(write: Write) -> None:
    path = write(*IMAGES)
    trace = open_trace(path)
    assert rows(trace) == [(0.0, 770, 491), (3.0, 78, 5)]
    assert trace.survey.dropped == {
        "missing_timestamp": 0, "below_one": 1, "beyond_max_model_len": 0, "with_images": 2,
    }  # fmt: skip
    assert "2 with_images" in trace.survey.line()
    assert "2 rows" in read_pairs(path, TraceOptions()).line
    assert rows(open_trace(path, TraceOptions(where=(("NumImages", "0"),)))) == [(0.0, 770, 491)]
    with pytest.raises(InputError, match=r"none of its 5 rows can be used: 1 with_images, 4 filtered out"):
        open_trace(path, TraceOptions(where=(("NumImages", "16"),)))


def test_a_number_of_images_that_is_none_is_named(write: Write) -> None:
    with pytest.raises(InputError, match=r"row 2 \(line 3\), column NumImages: 'many' is no number"):
        open_trace(write(*IMAGES[:2], "2024-10-15T12:00:01.269Z,many,949,126"))


def test_a_file_without_that_column_is_the_older_form(write: Write) -> None:
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03.9799600,10,3")
    assert "with_images" not in open_trace(path).survey.dropped


# --- Bailian


@pytest.mark.parametrize("kind", ["text", "search", "image", "file"])
def test_bailian_s_four_files_are_seconds_and_blocks_of_16(write: Write, kind: str) -> None:
    lines = [
        {
            "chat_id": number, "parent_chat_id": number - 1, "timestamp": 61.114 * number, "input_length": 33,
            "output_length": 132, "type": kind if number else "text", "turn": number + 1, "hash_ids": [7, 8, number],
        }
        for number in range(2)
    ]  # fmt: skip
    path = write(*map(json.dumps, lines), name="t.jsonl")
    trace = open_trace(path)
    assert (trace.survey.unit_reason, trace.survey.span_s) == ("the Bailian form", 61.114)
    prefix = read(trace).prefix
    assert prefix is not None
    assert prefix.rows() == [(16, 7, 8, 0), (16, 7, 8, 1)]
    assert len(rows(open_trace(path, TraceOptions(where=(("type", kind), ("turn", "2")))))) == 1
