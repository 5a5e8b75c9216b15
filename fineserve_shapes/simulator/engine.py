"""What an engine is: sequences go in at their times, tokens come out at theirs. No I/O, no clock.

There are two: `batching` behaves like a real one, `schedule` gives every stream a timetable known beforehand.
"""

import math
from typing import Any, Protocol

from fineserve_shapes.simulator.kvcache import Content, Held


class Sequence:
    """One answer as the engine sees it; compared by identity.

    Parameters
    ----------
    prompt_tokens, output_tokens
        Its length.
    content
        What its tokens are, so that blocks of equal tokens can be shared; None if it shares nothing.
    """

    __slots__ = (
        "admitted_s",
        "answer",
        "arrived_s",
        "cached_tokens",
        "computed",
        "generated",
        "held",
        "live",
        "output_tokens",
        "preempted",
        "prompt_tokens",
        "running",
    )

    def __init__(self, prompt_tokens: int, output_tokens: int, content: Content | None = None) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.generated = 0
        self.computed = 0  # tokens whose KV is computed
        self.held = Held(content)
        self.arrived_s = math.nan
        self.admitted_s: float | None = None  # first admission to the batch
        self.cached_tokens = 0  # of the prompt, those found in the prefix cache on first admission
        self.preempted = 0
        self.live = False  # submitted, and neither complete nor aborted
        self.running = False  # in the batch
        self.answer: Any = None  # who waits for the tokens: the engine does not look at it


Token = tuple[float, Sequence, int]
"""When it is due (s), whose it is, and how many tokens came at once."""


class Engine(Protocol):
    """What the server needs of an engine. Times never go back from one call to the next."""

    tokens_at_once: int
    """Tokens of one sequence that may come in one step."""

    counters: "Counters"

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        ...

    def submit(self, sequence: Sequence, now_s: float) -> None:
        """Queue a sequence.

        Raises
        ------
        ValueError
            If it could never finish: it would need more KV slots than there are.
        """
        ...

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it stands. Unknown ones are ignored."""
        ...

    def forget(self) -> None:
        """Forget what no sequence needs, as a restart does."""
        ...

    def next_s(self) -> float | None:
        """When something is due next, None while there is no work."""
        ...

    def advance(self, now_s: float) -> list[Token]:
        """What is due until `now_s`, in order of time."""
        ...


class Counters:
    """What an engine has done since its start, for the server's `/metrics`."""

    def __init__(self) -> None:
        self.preemptions = 0
        self.prefix_queries = 0  # tokens of prompts looked up in the prefix cache
        self.prefix_hits = 0  # those of them that were found
        self.drafts = 0
        self.draft_tokens = 0
        self.accepted_at: list[int] = []  # drafted tokens accepted, by their place in the draft

    @property
    def accepted_tokens(self) -> int:
        return sum(self.accepted_at)
