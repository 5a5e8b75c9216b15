"""What can go wrong with an answer, on purpose: which request meets which fault.

A request that names a fault in the header X-Fault meets that one. Else the faults of the moment count (`--fault-at`),
else those drawn by their probabilities (`--fault`): such a fault depends on the seed and the request's id alone (and on
how often that id was refused, since a client may retry), so the same plan meets the same faults in any order. Those of
HTTP answer at once; the others bend a stream (`streamfaults`, `dialects`). Answers that are not streamed meet only those
of HTTP.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.answers import StreamAnswer
from fineserve_shapes.simulator.dialects import DIALECTS
from fineserve_shapes.simulator.streamfaults import STREAM_FAULTS

HEADER = "x-fault"
DOWN = "down"
_REMEMBERED_IDS = 100_000
_HTML = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>The simulated proxy is sorry.</body></html>"
)

BENT: Mapping[str, type[StreamAnswer]] = {**STREAM_FAULTS, **DIALECTS}
"""The answers that are bent, by kind of fault."""
for _kind, _class in BENT.items():
    _class.fault = _kind


@dataclass(frozen=True, slots=True)
class HttpFault:
    """An answer that is none. Without a `body` it is the server's own form of an error, with this name."""

    status: int
    name: str
    headers: Mapping[str, str]
    body: bytes | None = None
    content_type: str = ""


HTTP_FAULTS: Mapping[str, HttpFault] = {
    "http_500": HttpFault(500, "InternalServerError", {}),
    "http_503": HttpFault(503, "ServiceUnavailableError", {}),
    "http_429": HttpFault(429, "Too Many Requests", {"retry-after": "1"}),
    "html_200": HttpFault(200, "", {}, _HTML, "text/html"),
    "empty_200": HttpFault(200, "", {}, b"", "text/event-stream; charset=utf-8"),
}
KINDS = (*HTTP_FAULTS, *BENT)


def _known(kind: str, kinds: Sequence[str]) -> str:
    if kind not in kinds:
        raise InputError(f"unknown fault {kind!r}; there are {', '.join(kinds)}")
    return kind


@dataclass(frozen=True, slots=True)
class FaultShares:
    """Probability of each kind of fault; they exclude each other, so the sum is at most 1."""

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        for kind, share in self.shares.items():
            _known(kind, KINDS)
            if not 0.0 <= share <= 1.0:
                raise InputError(f"the probability of fault {kind} must lie in 0..1, got {share}")
        if sum(self.shares.values()) > 1.0 + 1e-9:
            raise InputError(f"the probabilities of faults add up to {sum(self.shares.values())}, above 1")

    @staticmethod
    def parse(text: str) -> "FaultShares":
        """Read `KIND=PROBABILITY[,KIND=PROBABILITY...]`."""
        shares = {}
        for item in filter(None, text.split(",")):
            kind, _, share = item.partition("=")
            try:
                shares[kind.strip()] = float(share)
            except ValueError:
                raise InputError(f"a fault is KIND=PROBABILITY, got {item!r}") from None
        return FaultShares(shares)


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """A kind of fault that all requests meet for a while, in seconds from the start; `down` is no server at all."""

    start_s: float
    end_s: float
    kind: str

    @staticmethod
    def parse(text: str) -> "FaultWindow":
        """Read `START..END=KIND`, the times as in `90`, `90s` or `1.5m`; without END it lasts."""
        match = re.fullmatch(r"([\d.]+)([sm]?)\.\.(?:([\d.]+)([sm]?))?=(\w+)", text.replace(" ", ""))
        try:
            if match is None:
                raise ValueError
            start, start_unit, end, end_unit, kind = match.groups()
            start_s = float(start) * (60.0 if start_unit == "m" else 1.0)
            end_s = math.inf if end is None else float(end) * (60.0 if end_unit == "m" else 1.0)
        except ValueError:
            raise InputError(
                f"a fault of some time is START..END=KIND, as in 60s..90s=http_503, got {text!r}"
            ) from None
        if not start_s < end_s:
            raise InputError(f"a fault must end after it begins, got {text!r}")
        return FaultWindow(start_s, end_s, _known(kind, (*KINDS, DOWN)))


class FaultDraw:
    """Decides which request meets which fault."""

    def __init__(self, shares: FaultShares, windows: Sequence[FaultWindow], seed: int) -> None:
        self._shares = shares.shares
        self._windows = [window for window in windows if window.kind != DOWN]
        self._seed = seed
        self._refused: Counter[str] = Counter()

    def draw(self, request_id: str, now_s: float = 0.0, asked: str | None = None) -> tuple[str | None, random.Random]:
        """The fault of a request, if any, and the randomness for its details.

        `now_s` counts from the server's start; `asked` is what the request's header says.
        """
        rng = random.Random(f"{self._seed}/{request_id}/{self._refused[request_id]}")
        point = rng.random()
        if asked in KINDS:
            return asked, rng
        for window in self._windows:
            if window.start_s <= now_s < window.end_s:
                return window.kind, rng
        for kind, share in self._shares.items():
            if point < share:
                if kind in HTTP_FAULTS and len(self._refused) < _REMEMBERED_IDS:
                    self._refused[request_id] += 1  # a retry draws anew
                return kind, rng
            point -= share
        return None, rng
