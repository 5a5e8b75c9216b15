"""Acknowledgements are saved where that cannot slow a server down, and nowhere else."""

from __future__ import annotations

import socket
import struct

import gevent
import pytest
from servers import END, HEAD, Lab, Peer, chunk, events, post

from fineserve_shapes.client.acknowledgements import FRESH_S, TRIAL_S, TRIAL_TOKENS, TRIALS, LateAcknowledgements

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can be told to wait")

GAP_S = 0.005
SEGMENTS_IN = 140  # where a struct tcp_info has the segments received so far


class Link:
    """A connection whose server holds pieces back (`held`) or does not."""

    def __init__(self, held: bool = False, known: bool = True) -> None:
        self.held = held
        self.known = known
        self.late = False

    def acknowledge_late(self) -> None:
        if not self.known:
            raise OSError
        self.late = True

    def acknowledges_late(self) -> bool:
        return self.late and not self.held


def look(late: LateAcknowledgements, link: Link, tokens: int, now_s: float) -> None:
    """As a connection does now and then."""
    if now_s >= late.due_s(link):
        late.end(link, tokens)


def answer(late: LateAcknowledgements, link: Link, tokens: int = TRIAL_TOKENS + 1, took_s: float = TRIAL_S) -> bool:
    """Read a whole answer; whether its connection was told to wait."""
    late.begin(link, 1, 0.0, 0.0)
    look(late, link, tokens // 2, took_s / 2)
    look(late, link, tokens, took_s)
    late.end(link, tokens)
    return link.late


def test_tokens_that_came_a_while_ago_begin_no_trial() -> None:
    """What came behind them has been acknowledged at once."""
    late = LateAcknowledgements()
    assert not late.begin(link := Link(), 1, 1.0, 1.0 - FRESH_S)
    assert not link.late
    assert late.begin(link, 1, 1.0, 1.0 - FRESH_S / 2)


def test_it_is_undecided_until_a_trial_has_begun_and_after_one_that_failed() -> None:
    late = LateAcknowledgements()
    assert late.undecided
    late.begin(link := Link(), 1, 0.0, 0.0)
    assert not late.undecided
    late.end(link, 2)  # too little to go by
    assert late.undecided
    for _ in range(TRIALS):
        answer(late, Link(held=True))
    assert not late.undecided
    decided = LateAcknowledgements()
    answer(decided, Link())
    assert not decided.undecided


def test_one_answer_tries_it_and_then_all_do_it() -> None:
    late = LateAcknowledgements()
    first, meanwhile, after = Link(), Link(), Link()
    late.begin(first, 1, 0.0, 0.0)
    late.begin(meanwhile, 1, 0.1, 0.1)
    look(late, meanwhile, 100, 10.0)
    look(late, first, 100, TRIAL_S / 2)
    late.begin(meanwhile, 1, 0.2, 0.2)
    assert (first.late, meanwhile.late) == (True, False)
    look(late, first, 100, TRIAL_S)
    late.begin(after, 1, 0.4, 0.4)
    assert after.late


def test_a_server_that_holds_pieces_back_is_tried_some_times_and_left_alone_for_good() -> None:
    late = LateAcknowledgements()
    told = [answer(late, Link(held=True)) for _ in range(TRIALS + 3)]
    assert told == [True] * TRIALS + [False] * 3
    assert not answer(late, Link())


@pytest.mark.parametrize("took_s", [TRIAL_S / 3, TRIAL_S])
def test_an_answer_of_few_tokens_shows_nothing(took_s: float) -> None:
    late = LateAcknowledgements()
    assert [answer(late, Link(), TRIAL_TOKENS, took_s) for _ in range(TRIALS + 3)] == [True] * (TRIALS + 3)
    late.begin(trying := Link(), 1, 0.0, 0.0)
    late.begin(other := Link(), 1, 0.0, 0.0)
    assert (trying.late, other.late) == (True, False)


def test_where_there_is_no_such_thing_it_is_asked_for_once() -> None:
    late = LateAcknowledgements()
    assert not answer(late, Link(known=False))
    assert not answer(late, Link())


# by the kernel's own count


class Counting:
    """A server that sends its tokens at GAP_S; acknowledged: segments that came during each answer, less the request."""

    def __init__(self, lab: Lab, tokens: int, *, at_once: bool = True) -> None:
        self.acknowledged: list[int] = []
        self._tokens = tokens
        self._at_once = at_once
        self.url = lab.serve(self._handle).url

    def _handle(self, peer: Peer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self._at_once)
        while peer.request() is not None:
            before = self._segments(peer)
            peer.send(HEAD)
            for each in events(self._tokens):
                peer.send(chunk(each))
                gevent.sleep(GAP_S)
            peer.send(END)
            self.acknowledged.append(self._segments(peer) - before)

    def _segments(self, peer: Peer) -> int:
        info = peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SEGMENTS_IN + 4)
        return int(struct.unpack_from("I", info, SEGMENTS_IN)[0])


def test_a_server_that_holds_nothing_back_gets_half_as_many_acknowledgements(lab: Lab) -> None:
    tokens = 80
    server = Counting(lab, tokens)
    client = lab.client(server.url)
    for _ in range(TRIALS + 1):  # a machine that stood still for 40 ms looks like a server that holds back
        assert post(client, asked=tokens).output_tokens == tokens
    assert min(server.acknowledged) < 0.7 * tokens


def test_a_server_that_holds_pieces_back_is_not_slowed_down(lab: Lab) -> None:
    """Each trial may delay one token; what comes after the trials comes as the server has it."""
    tokens = 40
    server = Counting(lab, tokens, at_once=False)
    client = lab.client(server.url)
    longest_s = []
    for _ in range(TRIALS + 4):
        result = post(client, asked=tokens)
        assert result.output_tokens == tokens
        longest_s.append(float(result.itl_s.max()))
    assert min(longest_s[TRIALS:]) < 0.035
    assert min(server.acknowledged[TRIALS:]) >= 0.9 * tokens
