"""Changes: which part of a series a reader has not seen yet."""

from __future__ import annotations

from bisect import bisect_right

MOST = 4_096


class Changes:
    """Remembers the earliest second that changed since any earlier version, in bounded memory.

    A reader who asks too seldom hears that all has changed.

    version: grows with every change, from 1. A reader keeps the version that it has read up to.
    """

    def __init__(self) -> None:
        self.version = 0
        # the earliest second of all changes from a version on; both ascend, since an earlier second outdoes all before it
        self._forgotten = 0  # versions before that
        self._versions: list[int] = []
        self._seconds: list[int] = []

    def note(self, second: int) -> None:
        """Something changed from this second of the run on."""
        self.version += 1
        while self._seconds and self._seconds[-1] >= second:
            self._seconds.pop()
            self._versions.pop()
        self._seconds.append(second)
        self._versions.append(self.version)
        if len(self._versions) > MOST:
            self._forgotten = self._versions[MOST // 2 - 1]
            del self._versions[: MOST // 2], self._seconds[: MOST // 2]

    def since(self, version: int) -> int | None:
        """The earliest second that changed after this version; None where nothing did."""
        if version < self._forgotten:
            return 0
        place = bisect_right(self._versions, version)
        return self._seconds[place] if place < len(self._seconds) else None
