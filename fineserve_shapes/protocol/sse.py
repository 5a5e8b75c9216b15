"""Server-sent events: bytes in, payloads out.

What may live here: the framing of `text/event-stream` alone. No JSON, no OpenAI, no clock.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 2**20
_BOM = b"\xef\xbb\xbf"


class SSEError(ValueError):
    """The bytes are no event stream that can be held in memory."""


class SSEDecoder:
    """An event stream, decoded piece by piece: however the bytes are split, the same events come out.

    Lines end with LF, CRLF or CR (and nothing else: U+2028 inside JSON is text). An event ends with an empty line; its
    `data` lines are joined by LF. Comments and all other fields are passed over. Source: the WHATWG HTML standard,
    "Server-sent events", section on interpreting an event stream.
    """

    __slots__ = ("_at_start", "_data", "_data_bytes", "_line", "_max_bytes", "_skip_lf", "between_events")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_event_bytes
        self._line = bytearray()  # the line begun and not ended yet
        self._data: list[bytes] = []  # data lines of the event begun and not ended yet
        self._data_bytes = 0
        self._skip_lf = False  # the last byte was a CR: a LF that follows belongs to it
        self._at_start = True
        self.between_events = False  # an event has ended, or a line of none, and nothing of the next has come

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the events that these bytes complete.

        Raises SSEError when one event outgrows the limit: nothing may make a client hold an endless line.
        """
        # The way servers send: whole events of one data line each. Everything else takes the general way below; a test
        # holds the two to the same answers.
        if (
            data[:6] == b"data: "
            and data[-2:] == b"\n\n"
            and not self._line
            and not self._data
            and b"\r" not in data
            and len(data) <= self._max_bytes
        ):
            payloads = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(payloads):
                self._skip_lf = self._at_start = False
                self.between_events = True
                return payloads
        return self._feed_lines(data)

    def end(self) -> list[bytes]:
        """The payload left over when the stream ends without the empty line that should close its last event."""
        payloads = self._feed_lines(b"\n\n")
        self._skip_lf = False
        return payloads

    def _feed_lines(self, data: bytes) -> list[bytes]:
        self.between_events = False
        if self._skip_lf and data:
            self._skip_lf = False
            if data[:1] == b"\n":
                data = data[1:]
        if not data:
            return []
        self._skip_lf = data[-1:] == b"\r"
        first, *lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line += first
        self._check(self._line)
        if not lines:
            return []
        payloads: list[bytes] = []
        self._take(bytes(self._line), payloads)
        for line in lines[:-1]:
            self._take(line, payloads)
        self._line = bytearray(lines[-1])
        self._check(self._line)
        self.between_events = not (self._line or self._data or self._skip_lf)
        return payloads

    def _check(self, line: bytes | bytearray) -> None:
        if len(line) + self._data_bytes > self._max_bytes:
            raise SSEError(f"an event of more than {self._max_bytes} bytes")

    def _take(self, line: bytes, payloads: list[bytes]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        self._check(line)  # also one that came in one piece: how the bytes are split makes no difference
        if not line:
            if self._data:
                payloads.append(b"\n".join(self._data))
                self._data, self._data_bytes = [], 0
        elif line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
            self._data.append(value)
            self._data_bytes += len(value) + 1  # a line costs memory even when it is empty
        elif line == b"data":
            self._data.append(b"")
            self._data_bytes += 1
