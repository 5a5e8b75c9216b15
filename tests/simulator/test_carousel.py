"""Carousels: what an engine hands over comes as the engine would have given it, whenever the server wakes up.

All of it holds for rings in C and for those in Python.
"""

import contextlib
import math
from collections.abc import Iterator
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordedanswer import Recorded, chunk, nonblocking_pair, use_rings

from fineserve_shapes.simulator.burst import write_tokens
from fineserve_shapes.simulator.carousel import Carousel
from fineserve_shapes.simulator.phrase import chunks, framed, repeated, word
from fineserve_shapes.simulator.ring import ROUNDING_S
from fineserve_shapes.simulator.schedule import ConstantEngine
from fineserve_shapes.simulator.vocabulary import HOSTILE

TTFT_S, ITL_S = 0.1, 0.01


@pytest.fixture(params=["in C", "in Python"], autouse=True, scope="module")
def _ring(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_rings(request.param, patch)
        yield


def give(engine: ConstantEngine, carousel: Carousel, now_s: float, *, together: bool = False) -> None:
    """Give what is due by now. together: what the engine has due is asked for at once, not one time after the other."""
    carousel.write(now_s)
    while carousel.end():
        pass
    while (next_s := engine.next_s()) is not None and next_s <= now_s:
        write_tokens(engine.advance(now_s if together else next_s), carousel.board)
    while carousel.end():
        pass


# naps of a server in good time, and of one that is far too late
naps_s = st.lists(st.sampled_from([5e-4, 0.003, 0.01, 0.0137, 0.05]), min_size=1, max_size=60)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 0.05), st.integers(1, 12)), min_size=1, max_size=12), naps_s, st.booleans())
def test_every_token_comes_once_in_order_and_not_before_its_time(
    load: list[tuple[float, int]], naps: list[float], together: bool
) -> None:
    """Whatever the gaps between requests, the lengths, and the times at which the server wakes up."""
    engine = ConstantEngine(TTFT_S, ITL_S)
    carousel = Carousel(engine)
    arrivals_s = list(accumulate(gap_s for gap_s, _ in load))
    answers = [Recorded(tokens) for _, tokens in load]
    due_s = [
        [at_s + TTFT_S + token * ITL_S for token in range(tokens)]
        for at_s, (_, tokens) in zip(arrivals_s, load, strict=True)
    ]
    now_s, submitted, step = 0.0, 0, 0
    while any(answer.tokens < answer.sequence.output_tokens for answer in answers):
        now_s += naps[step % len(naps)]
        step += 1
        while submitted < len(load) and arrivals_s[submitted] <= now_s:
            give(engine, carousel, arrivals_s[submitted], together=together)
            engine.submit(answers[submitted].sequence, arrivals_s[submitted])
            submitted += 1
        give(engine, carousel, now_s, together=together)
        for answer, due in zip(answers[:submitted], due_s, strict=False):
            assert sum(at_s <= now_s - 2 * ROUNDING_S for at_s in due) <= answer.tokens
            assert answer.tokens <= sum(at_s <= now_s for at_s in due)
    give(engine, carousel, now_s + 1.0)
    assert [answer.got for answer in answers] == [[chunk(k + 1) for k in range(n)] for _, n in load]
    assert [answer.chunk_due_s for answer in answers] == due_s
    assert carousel.next_s() is None
    assert engine.running == 0
    assert not any(answer.sequence.running for answer in answers)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9, unique=True), st.floats(0.1, 0.2))
def test_who_leaves_does_not_disturb_the_others(leaving: list[int], at_s: float) -> None:
    """Ten streams, a millisecond apart; some leave in mid-stream, with the times that their chunks were due until then."""
    engine = ConstantEngine(TTFT_S, ITL_S)
    carousel = Carousel(engine)
    answers = [Recorded(15) for _ in range(10)]
    for number, answer in enumerate(answers):
        engine.submit(answer.sequence, 1e-3 * number)
    now_s = 0.0
    while now_s < 0.3:
        if now_s <= at_s < now_s + 5e-4:
            for number in leaving:
                if answers[number].carousel is carousel:
                    carousel.leave(answers[number])
                else:
                    engine.abort(answers[number].sequence)
                assert len(answers[number].chunk_due_s) == answers[number].tokens
        now_s += 5e-4
        give(engine, carousel, now_s)
    for number, answer in enumerate(answers):
        assert answer.got == [chunk(k + 1) for k in range(answer.tokens)]
        assert answer.tokens == 15 or number in leaving
        assert answer.carousel is None


def test_last_chunks_wait_until_they_are_asked_for() -> None:
    """Chunks of others go meanwhile; it is told since when the first of them waits, and who leaves no longer waits."""
    engine = ConstantEngine(TTFT_S, ITL_S)
    carousel = Carousel(engine)
    answers = [Recorded(tokens) for tokens in (4, 5, 9)]
    for answer in answers:
        engine.submit(answer.sequence, 0.0)
    give(engine, carousel, TTFT_S)
    carousel.write(TTFT_S + 5.5 * ITL_S)
    assert [len(answer.got) for answer in answers] == [3, 4, 6]
    assert carousel.ended_s() == TTFT_S + 3 * ITL_S
    carousel.leave(answers[0])
    assert carousel.ended_s() == TTFT_S + 4 * ITL_S
    assert carousel.end()
    assert answers[1].got[-1] == chunk(5)
    assert carousel.ended_s() == math.inf
    assert not carousel.end()
    assert [len(answer.got) for answer in answers] == [3, 5, 6]


def test_what_a_connection_does_not_take_is_left_to_it() -> None:
    """A socket that is full: the rest of each chunk goes to `write_rest`, and other streams go on."""
    ours, theirs = nonblocking_pair()
    with ours, theirs:
        engine = ConstantEngine(TTFT_S, ITL_S)
        carousel = Carousel(engine)
        answers = [Recorded(4_000, ours.fileno()), Recorded(3)]
        for answer in answers:
            engine.submit(answer.sequence, 0.0)
        give(engine, carousel, TTFT_S + 1e-6)
        give(engine, carousel, TTFT_S + ITL_S * 3_998.5)
        first, *rest = answers[0].got
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += theirs.recv(1 << 20)
        assert rest
        assert first + taken + b"".join(rest) == b"".join(map(chunk, range(1, 4_000)))
        assert answers[1].got == [chunk(1), chunk(2), chunk(3)]


def test_what_comes_late_waits_for_what_was_not_taken() -> None:
    """Two chunks of an answer are due at once, and its client reads on between them: it gets them in their order."""
    ours, theirs = nonblocking_pair()
    with ours, theirs:
        engine = ConstantEngine(TTFT_S, ITL_S)
        answer = Recorded(9, ours.fileno())
        engine.submit(answer.sequence, 0.0)
        write_tokens(engine.advance(TTFT_S + 1e-6))
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 4096)

        def write_rest(data: bytes) -> None:
            answer.got.append(data)
            answer.fd = -1  # until the client has read what is in `got`
            with contextlib.suppress(BlockingIOError):
                theirs.recv(1 << 20)

        answer.write_rest = write_rest  # type: ignore[method-assign]
        write_tokens(engine.advance(TTFT_S + 3.5 * ITL_S))
        assert answer.got == [chunk(1), chunk(2), chunk(3), chunk(4)]


@given(st.integers(0, 1 << 32), st.integers(1, 40), st.integers(0, 40), st.binary(max_size=300), st.binary(max_size=30))
def test_chunks_are_what_rendering_each_would_give(
    first_word: int, start: int, count: int, head: bytes, tail: bytes
) -> None:
    """Words of all kinds, heads of all lengths: the framed event of each token."""
    tokens = range(start, start + count)
    events = [head + HOSTILE.json[word(HOSTILE, first_word, token)] + tail for token in tokens]
    assert list(repeated(chunks(HOSTILE, first_word, head, tail), tokens)) == list(map(framed, events))
