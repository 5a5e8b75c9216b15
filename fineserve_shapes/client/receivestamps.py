"""Receive stamps: when bytes reached this machine, by its kernel's word rather than by when a busy process came to read.

What may live here: a non-blocking read of one TCP socket that tells the time of what it read. Linux stamps each
segment as it comes (SO_TIMESTAMPNS; socket(7)), so a process that was busy for some milliseconds does not add them to
the server's latency. Segments that wait together are one to the kernel, with the stamp of the newest: where the
process was away for longer than the gap between two tokens of a stream, the first has the time of the second. The end
of a connection has no stamp; there, on other systems, and where no stamp comes, it is the time of the read.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

from gevent import monkey

_Socket: type[socket.socket] = monkey.get_original("socket", "socket")
_SO_TIMESTAMPNS = 35  # Linux's, on all but a few old architectures; Python has no name for it
_STAMP = struct.Struct("@ll")  # seconds and nanoseconds of the wall clock
_AT_ONCE_S = 2e-5
READ_BYTES = 2**16
"""How much is read at once."""
_SPACE = socket.CMSG_SPACE(_STAMP.size) if hasattr(socket, "CMSG_SPACE") else 0

_now_s = time.perf_counter
_wall_ns = time.time_ns


class StampedSocket:
    """Reads one socket. Times are those of `time.perf_counter`, seconds; they never go back."""

    __slots__ = ("_recvmsg", "_socket", "since_s")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._recvmsg = sock.recvmsg if _stamped(sock) else None
        self.since_s = _now_s()
        """No byte that is still to be read came before that: the wall clock may jump, this bounds what it can do."""

    def recv(self, size: int = READ_BYTES) -> tuple[bytes, float]:
        """Bytes that are there and when the newest of them came; b"" at the end; BlockingIOError where there are none."""
        if self._recvmsg is None:
            data = self._socket.recv(size)
            self.since_s = _now_s()
            return data, self.since_s
        data, ancillary, _, _ = self._recvmsg(size, _SPACE)
        if ancillary and len(stamp := ancillary[0][2]) == _STAMP.size:
            second, nanosecond = _STAMP.unpack(stamp)
            wall_ns, now_s = _both_clocks()
            age_s = (wall_ns - second * 1_000_000_000 - nanosecond) * 1e-9
            self.since_s = max(now_s - max(age_s, 0.0), self.since_s)
        else:
            self.since_s = _now_s()
        return data, self.since_s


def _both_clocks() -> tuple[int, float]:
    """The wall clock (ns) and perf_counter (s) some microseconds later at most: a pause may lie between two readings."""
    for _ in range(3):
        before_s = _now_s()
        wall_ns = _wall_ns()
        now_s = _now_s()
        if now_s - before_s < _AT_ONCE_S:
            break
    return wall_ns, now_s


def keep_stamping() -> socket.socket | None:
    """A socket that is nothing but a wish for stamps: for as long as it is open, the kernel makes them.

    It begins some milliseconds after the first wish, and stops with the last: what came before gets the time of its read.
    """
    try:
        sock = _Socket(socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return None
    if _stamped(sock):
        return sock
    sock.close()
    return None


def _stamped(sock: socket.socket) -> bool:
    """Ask for stamps; whether that can be had."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True
