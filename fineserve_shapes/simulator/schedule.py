"""The constant schedule: every stream on a timetable of its own, whatever else runs.

The ground truth of measurements: what is due when is known beforehand.
"""

from collections import deque

from fineserve_shapes.simulator.engine import Counters, Sequence, Token


class ConstantEngine:
    """Token k (from 0) of a stream is due at arrival + ttft_s + k * itl_s.

    Two queues suffice instead of a heap, since all first tokens have one delay and all later ones another, so both
    queues stay in order of time.
    """

    tokens_at_once = 1

    def __init__(self, ttft_s: float, itl_s: float) -> None:
        self.counters = Counters()
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        self.itl_s = itl_s
        self._ttft_s = ttft_s
        self._first: deque[Token] = deque()
        self._later: deque[Token] = deque()

    def submit(self, sequence: Sequence, now_s: float) -> None:
        sequence.arrived_s = sequence.admitted_s = now_s
        sequence.live = sequence.running = True
        self.running += 1
        self._first.append((now_s + self._ttft_s, sequence, 1))

    def abort(self, sequence: Sequence) -> None:
        if sequence.live:
            sequence.live = sequence.running = False  # its entry stays queued and is dropped when due
            self.running -= 1

    def hand_over(self, sequence: Sequence) -> None:
        """Give no more tokens of a sequence that runs on: someone else keeps to its timetable, to the end."""
        self.abort(sequence)
        sequence.running = True

    def first_due_s(self, sequence: Sequence) -> float:
        """When its first token is due."""
        return sequence.arrived_s + self._ttft_s

    def forget(self) -> None:
        pass

    def next_s(self) -> float | None:
        queue = self._next_queue()
        return queue[0][0] if queue else None

    def advance(self, now_s: float) -> list[Token]:
        tokens: list[Token] = []
        itl_s, later = self.itl_s, self._later
        while (queue := self._next_queue()) and queue[0][0] <= now_s:
            token = queue.popleft()
            sequence = token[1]
            if not sequence.live:
                continue
            tokens.append(token)
            generated = sequence.generated = sequence.generated + 1
            if generated == sequence.output_tokens:
                sequence.live = sequence.running = False
                self.running -= 1
            else:
                # from the arrival, not from the last token: rounding does not add up
                later.append((self.first_due_s(sequence) + generated * itl_s, sequence, 1))
        return tokens

    def _next_queue(self) -> deque[Token]:
        first, later = self._first, self._later
        return later if not first or (later and later[0][0] < first[0][0]) else first
