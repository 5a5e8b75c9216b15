"""Rates: arrivals from a rate and a burstiness, or from a rate that goes through pieces."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.arrivals import Arrivals, Constant, Gamma, Piecewise, Poisson, Segment

_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_PIECE = re.compile(rf"(?P<start>{_NUMBER})(?:\.\.(?P<end>{_NUMBER}))?(?:@(?P<duration>{_NUMBER})(?P<unit>s|m|h)?)?")
_UNITS_S = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
GRAMMAR = "pieces such as 10@60,10..50@2m,50: a rate and its seconds, a ramp, and a last rate that stays"


@dataclass(frozen=True, slots=True)
class RateOptions:
    """What `--request-rate` and its companions ask for.

    request_rate: requests per second; inf makes all due at once.
    profile: a rate in pieces, in its stead (`parse_profile`).
    burstiness: shape k of gamma gaps; 1 is Poisson, below 1 burstier, inf evenly spaced.
    scale: what the rate is multiplied by.
    """

    request_rate: float = 1.0
    profile: str | None = None
    burstiness: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.request_rate > 0:
            raise InputError(f"request rate must be positive, got {self.request_rate} (--request-rate)")
        if not self.burstiness > 0:
            raise InputError(f"the burstiness must be positive, got {self.burstiness} (--burstiness)")
        if not 0 < self.scale < math.inf:
            raise InputError(f"a rate can be scaled by a positive number only, got {self.scale} (--rate-scale)")

    def arrivals(self) -> Arrivals:
        """The arrivals asked for. Raises InputError where the options contradict each other."""
        rate_rps = self.request_rate * self.scale
        if self.profile is not None:
            if math.isinf(self.burstiness):
                raise InputError("a rate in pieces has random gaps: --rate-profile takes a finite --burstiness")
            return parse_profile(self.profile, self.burstiness, self.scale)
        if math.isinf(rate_rps):
            if self.burstiness != 1:
                raise InputError("at an infinite rate there are no gaps, so none that are bursty (--burstiness, --cv)")
            return Poisson(rate_rps)
        if self.burstiness == 1:
            return Poisson(rate_rps)
        return Constant(rate_rps) if math.isinf(self.burstiness) else Gamma(rate_rps, self.burstiness)

    @property
    def endless(self) -> bool:
        """Whether the arrivals have no end."""
        return self.profile is None or "@" not in self.profile.rpartition(",")[2]

    def identity(self) -> dict[str, object]:
        """The options as plain values, for a fingerprint."""
        return {"rate": str(self.request_rate), "profile": self.profile, "burstiness": str(self.burstiness),
                "scale": self.scale}  # fmt: skip

    def line(self) -> str:
        """What arrives, for the log."""
        rate = f"{self.request_rate * self.scale:g}/s"
        if self.profile is not None:
            rate = f"the rates {self.profile}" + (f" times {self.scale:g}" if self.scale != 1 else "")
        if math.isinf(self.request_rate) and self.profile is None:
            return "all requests at once"
        if self.burstiness == 1:
            return f"Poisson arrivals at {rate}"
        if math.isinf(self.burstiness):
            return f"evenly spaced arrivals at {rate}"
        return f"gamma arrivals at {rate}, CV of gaps {self.burstiness**-0.5:.4g}"


def parse_profile(text: str, shape: float = 1.0, scale: float = 1.0) -> Piecewise:
    """Read a rate in pieces.

    Parameters
    ----------
    text : str
        Pieces with commas between them: `10@60` is 10 requests per second for 60 seconds (or `1m`; `h` for hours),
        `10..50@120` goes linearly from 10 to 50. A last piece without `@` stays for ever: `0..50@60,50`.
    shape : float
        Shape k of the gamma gaps in operational time.
    scale : float
        What all rates are multiplied by.

    Raises
    ------
    InputError
        If the text is none of this, or asks for no request at all.
    """
    parts = text.replace(" ", "").split(",")
    pieces: list[Segment] = []
    for number, part in enumerate(parts, 1):
        match = _PIECE.fullmatch(part)
        if match is None:
            raise InputError(f"--rate-profile takes {GRAMMAR}; got {clipped(repr(part))} in {clipped(repr(text), 80)}")
        start_rps = scale * float(match["start"])
        end_rps = start_rps if match["end"] is None else scale * float(match["end"])
        duration_s = math.inf if match["duration"] is None else float(match["duration"]) * _UNITS_S[match["unit"]]
        if math.isinf(duration_s) and number < len(parts):
            raise InputError(
                f"--rate-profile: only the last piece may stay for ever; {part!r} needs seconds, {part}@60"
            )
        try:
            pieces.append(Segment(duration_s, start_rps, end_rps, shape))
        except InputError as error:
            raise InputError(f"--rate-profile, piece {part!r}: {error}") from None
    if not any(piece.expected for piece in pieces):
        raise InputError(f"--rate-profile asks for no request at all, got {clipped(repr(text), 80)}")
    return Piecewise(tuple(pieces))
