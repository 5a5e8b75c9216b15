"""Names: of the streams of a run, and of its requests."""

from __future__ import annotations

from dataclasses import dataclass

from fineserve_shapes.errors import InputError

ALONE = "all"
"""The stream of a run whose one stream nobody named."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names by number, from 0. mixed: the run is a mix, if only of one stream, so that names are part of request ids."""

    names: tuple[str, ...] = (ALONE,)
    mixed: bool = False

    def of(self, stream: int) -> str:
        """The stream's name; its number where there is no such stream, as in the log of another run."""
        return self.names[stream] if 0 <= stream < len(self.names) else str(stream)

    def number(self, name: str) -> int:
        """The stream of that name. Raises InputError where there is none."""
        try:
            return self.names.index(name)
        except ValueError:
            raise InputError(f"there is no stream {name!r}: the run has {', '.join(self.names)}") from None

    def request_id(self, run: str, stream: int, index: int, position: int) -> str:
        """`<run>-<index>` or, in a mix, `<run>-<stream>-<position>`, which does not depend on the other streams."""
        return f"{run}-{self.of(stream)}-{position}" if self.mixed else f"{run}-{index}"
