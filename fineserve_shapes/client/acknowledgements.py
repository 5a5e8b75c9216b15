"""Acknowledgements: whether the pieces of a stream are acknowledged one by one, or two at a time.

What may live here: how the connections to one server acknowledge what they read, and the proof that it does no harm.
Linux acknowledges a small segment when it has been read, which costs more than the reading. A connection that is told to
wait (TCP_QUICKACK off, tcp(7)) acknowledges it together with the next one, or alone after 40 ms. A server that sends each
token when it has it is not slowed down by that. One that holds small pieces back until the last was acknowledged
(Nagle's algorithm, without TCP_NODELAY) would be, and would look slower than it is.

So a single answer tries it, for some tenths of a second. The kernel gives the waiting up by itself where it once had to
acknowledge alone; where it has not, the server held nothing back, and all connections to it wait from then on, each from
the first token of an answer. After some trials that failed all stays as it was.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from typing import Protocol

TRIALS = 3
"""How many may fail: each may delay one token of one answer by 40 ms."""
TRIAL_S = 0.3
TRIAL_TOKENS = 8
"""Fewer in that time show nothing."""
FRESH_S = 0.005
"""A trial begins so soon after the first tokens came, or not at all."""


class Acknowledging(Protocol):
    """A connection's transport, as far as this goes."""

    def acknowledge_late(self) -> None:
        """Let the kernel wait with acknowledgements, until it once waits in vain. OSError where there is no such thing."""

    def acknowledges_late(self) -> bool:
        """Whether it still does."""


@dataclass(frozen=True, slots=True)
class _Trial:
    transport: Acknowledging
    tokens: int
    until_s: float


class LateAcknowledgements:
    """Of the connections to one server."""

    __slots__ = ("_trial", "_trials_left", "harmless")

    def __init__(self) -> None:
        self.harmless = False
        """Whether it is known that the server does not wait for them."""
        self._trial: _Trial | None = None
        self._trials_left = TRIALS if hasattr(socket, "TCP_QUICKACK") else 0

    @property
    def undecided(self) -> bool:
        """Whether the next first tokens, if they are told soon after they came, begin a trial."""
        return not self.harmless and self._trial is None and self._trials_left > 0

    def begin(self, transport: Acknowledging, tokens: int, now_s: float, came_s: float) -> bool:
        """The first tokens of an answer, so many, have come by this connection; whether it is on trial from now on.

        Not if they came a while ago: what has come behind them was acknowledged at once, and would prove nothing.
        """
        if self.harmless:
            transport.acknowledge_late()
        elif self.undecided and now_s - came_s < FRESH_S:
            try:
                transport.acknowledge_late()
            except OSError:
                self._trials_left = 0
            else:
                self._trial = _Trial(transport, tokens, now_s + TRIAL_S)
                return True
        return False

    def due_s(self, transport: Acknowledging) -> float:
        """When the trial of this connection has lasted long enough, and is to end; never, if it is not on trial."""
        trial = self._trial
        return math.inf if trial is None or trial.transport is not transport else trial.until_s

    def end(self, transport: Acknowledging, tokens: int) -> None:
        """So many tokens of the answer have come: if this connection is on trial, that shows what it can."""
        trial = self._trial
        if trial is None or trial.transport is not transport:
            return
        self._trial = None
        try:
            undisturbed = transport.acknowledges_late()
        except OSError:  # it has been closed
            return
        if not undisturbed:
            self._trials_left -= 1
        elif tokens - trial.tokens >= TRIAL_TOKENS:
            self.harmless = True
