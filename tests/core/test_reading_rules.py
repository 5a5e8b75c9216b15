"""The rules by which an answer is read, on answers as servers in the field send them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.protocol.tokens import Kind, Pieces, count_tokens

DONE = b"data: [DONE]\n\n"


def read(pieces: list[bytes], asked: int | None = 8, whole: bool = True, choices: int = 1) -> Result:
    """Read pieces that come at 1 s, 2 s, ...; sent at 0.5 s; HTTP ends a second after the last."""
    reader = AnswerReader(asked, choices)
    reader.headers(200)
    for number, piece in enumerate(pieces, 1):
        reader.feed(piece, float(number))
    return reader.finish(0.5, len(pieces) + 1.0, whole=whole)


def sse(*choices: dict[str, object], usage: object = None) -> bytes:
    event: dict[str, object] = {"choices": [{"index": 0, **choice} for choice in choices]}
    if usage is not None:
        event["usage"] = usage if isinstance(usage, dict) else {"prompt_tokens": 5, "completion_tokens": usage}
    return b"data: %s\n\n" % json.dumps(event).encode()


def content(text: str = "a", finish: object = None, index: int = 0, **more: object) -> bytes:
    return sse({"delta": {"content": text}, "finish_reason": finish, "index": index}, **more)


def reasoning(text: str = "hm", **more: object) -> bytes:
    return sse({"delta": {"reasoning_content": text}}, **more)


ROLE = sse({"delta": {"role": "assistant", "content": ""}})
EMPTY = sse({"delta": {"content": ""}})
BARE = sse({"delta": {}})
CLOSE = sse({"delta": {}, "finish_reason": "length"})


def usage(tokens: int) -> bytes:
    return sse(usage=tokens)


# 1: content is a token, whatever usage says


@pytest.mark.parametrize(
    ("per_chunk", "last", "expected", "tokens_from"),
    [
        ([0, 0, 0, 0], 4, 4, "usage"),  # zeros until the last
        ([{"prompt_tokens": 5}] * 4, None, 4, "chunks"),  # prompt tokens only
        ([{"prompt_tokens": 5, "completion_tokens": 0}] * 4, None, 4, "chunks"),
        ([1, 1, 1, 1], None, 4, "chunks"),  # 1 each instead of a running total
        ([1, 1, 1, 1], 4, 4, "usage"),
        ([1, 2, 3, 4], 4, 4, "usage"),
        ([1, 2, 3, 4], 0, 4, "usage"),  # a last usage of 0
        ([2, 4, 5, 9], 9, 9, "usage"),
        ([3, 2, 1, 2], None, 4, "chunks"),  # no total
        ([None, None, None, None], 0, 4, "chunks"),
        ([None, None, None, None], None, 4, "chunks"),
        ([{"input_tokens": 5, "output_tokens": n} for n in (1, 2, 3, 4)], None, 4, "usage"),
    ],
)
def test_usage_of_any_kind_leaves_times_to_the_content(
    per_chunk: list[object], last: int | None, expected: int, tokens_from: str
):
    pieces = [ROLE, *(content(usage=said) for said in per_chunk), CLOSE]
    result = read([*pieces, *([] if last is None else [usage(last)]), DONE])
    assert (result.outcome, result.first_token_s) == ("ok", 2.0)
    assert result.chunk_times_s.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert (result.output_tokens, result.tokens_from) == (expected, tokens_from)


def test_zeros_with_the_total_on_the_last_piece():
    result = read([content(usage=0), content(usage=0), content("c", "stop", usage=3), DONE])
    assert result.chunk_times_s.tolist() == [1.0, 2.0, 3.0]
    assert (result.output_tokens, result.tokens_from) == (3, "usage")


def test_reasoning_that_usage_leaves_out_is_a_token_all_the_same():
    pieces = [reasoning(usage=0), reasoning(usage=0), content(usage=1), content("b", "stop", usage=2), DONE]
    result = read(pieces)
    assert result.chunk_times_s.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert (result.first_token_s, result.first_visible_s, result.output_tokens) == (1.0, 3.0, 2)


def test_a_running_total_in_each_choice():
    """Two choices of three tokens, each with a total of its own, in turns."""
    pieces = [content("a", "stop" if n == 3 else None, index=i, usage=n) for n in (1, 2, 3) for i in (0, 1)]
    result = read([*pieces, DONE], asked=3, choices=2)
    assert result.chunk_times_s.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert (result.output_tokens, result.tokens_from, result.short) == (6, "usage", False)
    assert read([*pieces, usage(6), DONE], asked=3, choices=2).output_tokens == 6


def test_a_running_total_says_that_a_piece_holds_more_than_one():
    result = read([content(usage=4), content("b", "stop", usage=9), DONE])
    assert (result.first_chunk_tokens, result.first_chunk_known, result.tpot_s) == (4, True, 1 / 5)


@pytest.mark.parametrize(
    "part",
    [{"content": "a"}, {"reasoning": "a"}, {"tool_calls": [{"function": {"arguments": "{"}}]}, {"refusal": "no"}],
)
def test_content_of_every_kind_is_a_first_token(part: dict[str, object]):
    result = read([ROLE, sse({"delta": part}, usage=0), content("b", "stop", usage=0), usage(2), DONE])
    assert (result.first_token_s, result.output_tokens) == (2.0, 2)


# 2: a finish_reason can be a placeholder or a failure


@pytest.mark.parametrize("placeholder", ["", "null", None])
def test_an_answer_cut_after_placeholders_is_an_error(placeholder: object):
    result = read([content("a", placeholder), content("b", placeholder)], whole=False)
    assert (result.outcome, result.error) == ("stream_error", "the connection ended in the middle of the answer")
    assert read([content("a", placeholder), content("b", "stop")], whole=False).outcome == "ok"


@pytest.mark.parametrize("word", ["abort", "error", "cancelled", "timeout", "network_error"])
def test_a_failure_for_a_reason_is_an_error_with_the_word(word: str):
    result = read([content("a"), content("", word), usage(1), DONE])
    assert result.outcome == "stream_error"
    assert repr(word) in result.error
    assert result.first_token_s == 1.0


def test_an_error_after_a_finish_reason_is_an_error():
    assert read([content("a", "stop"), b'data: {"error":"boom"}\n\n', DONE]).error == "boom"


# 3: [DONE] ends the answer


@pytest.mark.parametrize(
    "done", [b"data: [DONE]\n\n", b"data:[DONE] \n\n", b'data: "[DONE]"\n\n', b"data:  [DONE]\n\n"]
)
def test_what_comes_after_done_changes_nothing(done: bytes):
    pieces = [content("a"), content("b", "stop"), usage(2), done]
    late = [content("c"), b'data: {"error":"late"}\n\n', b"data: nonsense\n\n", usage(9)]
    expected, result = read(pieces), read([*pieces, *late])
    assert (result.outcome, result.e2e_s, result.output_tokens) == ("ok", 3.5, 2)
    assert result.chunk_times_s.tolist() == expected.chunk_times_s.tolist() == [1.0, 2.0]
    assert read([*pieces, *late], whole=False).outcome == "ok"


def test_the_end_is_the_last_event_where_there_is_no_done():
    assert read([content("a"), content("b", "stop"), b": bye\n\n"]).e2e_s == 1.5


@pytest.mark.parametrize("how", ["timeout", "stream_error"])
def test_a_server_that_does_not_close_after_done_has_answered(how: str):
    reader = AnswerReader(2)
    reader.headers(200)
    for at_s, piece in enumerate([content("a"), content("b", "stop"), DONE], 1):
        reader.feed(piece, float(at_s))
    assert reader.done
    result = reader.stop(how, "no progress for 300 s", 0.5, 303.0)
    assert (result.outcome, result.error, result.e2e_s) == ("ok", None, 2.5)


def test_a_deadline_after_every_finish_reason_changes_nothing():
    reader = AnswerReader(2)
    reader.headers(200)
    reader.feed(content("a", "stop"), 1.0)
    assert reader.stop("timeout", "no progress for 300 s", 0.5, 301.0).outcome == "ok"


# 4: a whole answer without a finish_reason


@pytest.mark.parametrize("end", [[DONE], [usage(2)], [usage(2), DONE]])
def test_a_whole_answer_without_a_reason_is_ok_and_marked(end: list[bytes]):
    result = read([content("a"), content("b"), *end])
    assert (result.outcome, result.finish_reason, result.no_finish_reason) == ("ok", None, True)
    assert not read([content("a", "stop"), *end]).no_finish_reason


def test_whole_json_without_a_reason_is_ok_and_marked():
    body = b'{"choices":[{"index":0,"text":"abc","finish_reason":null}],"usage":{"completion_tokens":3}}'
    result = read([body])
    assert (result.outcome, result.no_finish_reason, result.output_tokens) == ("ok", True, 3)


@pytest.mark.parametrize("pieces", [[content("a"), content("b")], [content("a", usage=1), content("b", usage=2)]])
def test_an_answer_cut_before_its_end_stays_an_error(pieces: list[bytes]):
    assert read(pieces).error == "the answer ended without a finish_reason"
    assert read(pieces, whole=False).error == "the connection ended in the middle of the answer"


def test_usage_before_more_tokens_is_no_end():
    assert read([content("a"), usage(1), content("b")]).outcome == "stream_error"


# 5: as many choices as asked


def test_the_guard_and_short_know_of_several_choices():
    many = [content(index=i % 4) for i in range(4 * 300)]
    closed = [*many, *(content("x", "length", index=i) for i in range(4)), DONE]
    assert read(closed, asked=301, choices=4).outcome == "ok"
    assert not read(closed, asked=301, choices=4).short
    assert read(closed, asked=302, choices=4).short
    assert read([content(index=i % 2) for i in range(2000)], asked=10, choices=2).error.endswith(
        "2 x 10 were asked for"
    )


def test_candidates_count_in_the_guard_alone():
    reader = AnswerReader(600, choices=1, candidates=3)
    reader.headers(200)
    for _ in range(3000):
        reader.feed(content(), 1.0)
    assert not reader.hopeless


def test_one_reason_of_two_is_no_end():
    pieces = [content("a", index=0), content("b", index=1), content("c", "stop", index=0)]
    assert read(pieces, whole=False, choices=2).outcome == "stream_error"
    assert read([*pieces, content("d", "stop", index=1)], whole=False, choices=2).outcome == "ok"


@pytest.mark.parametrize("choices", [1, 2])
def test_choices_numbered_by_their_place_in_the_stream(choices: int):
    pieces = [content("a", index=i) for i in range(6)]
    ends = [content("z", "stop", index=6 + i) for i in range(choices)]
    assert read([*pieces, *ends], whole=False, choices=choices).outcome == "ok"
    assert read([*pieces, *ends[1:]], whole=False, choices=choices).outcome == "stream_error"


def test_a_server_that_gives_fewer_choices_than_asked_has_ended_by_its_own_word():
    assert read([content("a", "stop"), DONE], choices=3).outcome == "ok"
    assert read([content("a", "stop")], choices=3, whole=False).outcome == "stream_error"


def test_no_bound_where_no_length_was_asked_for():
    result = read([*(content() for _ in range(2000)), CLOSE, DONE], asked=None)
    assert (result.outcome, result.short) == ("ok", False)


# 6: an empty piece is no first token, unless something says so


@pytest.mark.parametrize("opening", [ROLE, EMPTY, BARE, sse({"text": ""})])
def test_an_opening_is_no_first_token(opening: bytes):
    result = read([opening, content("a"), content("b", "stop"), usage(2), DONE])
    assert result.chunk_times_s.tolist() == [2.0, 3.0]
    assert read([opening, content("a"), content("b", "stop"), DONE]).first_token_s == 2.0


@pytest.mark.parametrize("sign", [EMPTY, BARE])
def test_signs_of_life_are_no_tokens(sign: bytes):
    result = read([sign, sign, content("a"), sign, content("b", "stop"), usage(2), DONE])
    assert result.chunk_times_s.tolist() == [3.0, 5.0]


def test_half_characters_are_tokens_by_a_total_that_fits():
    result = read([EMPTY, content("é"), EMPTY, content("è", "length"), usage(4), DONE])
    assert result.chunk_times_s.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert read([EMPTY, content("é"), EMPTY, content("è"), CLOSE, usage(5), DONE]).first_token_s == 1.0


def test_a_total_that_the_end_alone_may_explain_makes_no_first_token():
    """An opening, a token, and an end: was the second token the first piece or the end of sequence?"""
    assert read([EMPTY, content("a"), CLOSE, usage(2), DONE]).first_token_s == 2.0


def test_token_ids_say_what_an_empty_piece_is():
    token = sse({"text": "", "token_ids": [7]})
    none = sse({"text": "", "token_ids": []})
    result = read([none, token, sse({"text": "a", "token_ids": [8], "finish_reason": "length"}), DONE])
    assert (result.chunk_times_s.tolist(), result.output_tokens) == ([2.0, 3.0], 2)


def test_a_total_that_grew_with_it_says_what_an_empty_piece_is():
    heartbeat = sse({"delta": {"content": ""}}, usage=0)
    half = sse({"delta": {"content": ""}}, usage=1)
    result = read([heartbeat, half, content("a", usage=2), content("b", "stop", usage=3), DONE])
    assert result.chunk_times_s.tolist() == [2.0, 3.0, 4.0]


# framing as proxies leave it


def test_html_with_status_200_says_what_it_is():
    result = read([b"<html><body>Bad gateway</body></html>"])
    assert (result.outcome, result.error.startswith("the answer is no event stream: b'<html>")) == (
        "stream_error",
        True,
    )


def test_frames_without_choices_change_nothing():
    filters = b'data: {"choices":[],"prompt_filter_results":[{"index":0}]}\n\n'
    result = read([filters, b'data: {"type":"ping"}\n\n', content("a"), content("b", "stop"), usage(2), DONE])
    assert (result.outcome, result.first_token_s, result.output_tokens) == ("ok", 3.0, 2)


def test_an_event_in_two_parts_is_put_together():
    event = content("abc", "stop").removeprefix(b"data: ").strip()
    parts = [b"data: %s\n\n" % event[:30], b"data: %s\n\n" % event[30:]]
    result = read([*parts, DONE])
    assert (result.outcome, result.first_token_s) == ("ok", 2.0)
    assert read([parts[0], content("b", "stop"), DONE]).outcome == "stream_error"
    assert read([parts[0]], whole=False).error.startswith("not an OpenAI event")


def test_events_without_the_empty_line_between_them():
    body = (content("a") + content("b", "stop") + DONE).replace(b"\n\n", b"\n") + b"\n"
    result = read([body])
    assert (result.outcome, len(result.chunk_times_s)) == ("ok", 2)


# laws

piece = st.tuples(st.sampled_from(list(Kind)), st.integers(-1, 6), st.integers(0, 2))


@given(st.lists(piece, max_size=12), st.none() | st.integers(0, 20), st.integers(1, 3))
def test_content_is_always_a_token_and_no_piece_counts_twice(
    drawn: list[tuple[Kind, int, int]], final: int | None, choices: int
):
    pieces = Pieces()
    for at, (kind, said, choice) in enumerate(drawn):
        pieces.add(float(at), kind, int(kind is Kind.CONTENT), said=False,
                   usage=None if said < 0 else said, choice=choice)  # fmt: skip
    found = count_tokens(pieces, final, choices)
    times = found.times_s.tolist()
    assert set(times) >= {float(at) for at, (kind, _, _) in enumerate(drawn) if kind is Kind.CONTENT}
    assert all(earlier < later for earlier, later in pairwise(times))
    assert found.first_tokens >= 1
    if final:
        assert (found.output_tokens, found.by_usage) == (final, True)
    if times:
        assert found.output_tokens


@given(st.integers(1, 10), st.sampled_from(["total", "ones", "zeros", "none", "running"]))
def test_times_do_not_depend_on_the_usage_a_server_sends(count: int, way: str):
    said = {"total": [None] * count, "ones": [1] * count, "zeros": [0] * count, "none": [None] * count,
            "running": list(range(1, count + 1))}[way]  # fmt: skip
    pieces = [content(usage=value) for value in said]
    result = read([*pieces, CLOSE, *([usage(count)] if way != "none" else []), DONE])
    assert result.chunk_times_s.tolist() == [float(at) for at in range(1, count + 1)]
    assert result.output_tokens == count
