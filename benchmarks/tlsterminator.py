"""A TLS terminator before a plain server of this machine, since the paced server speaks no TLS.

usage: TLSTerminator(port), a context manager; itself it runs as python -m benchmarks.tlsterminator PORT CERTIFICATE KEY

One thread passes on what comes as soon as it comes: a token costs it 30 to 40 us, which the client's TTFT has in it. It is
for answers that a socket's buffer can hold: a client that does not read is hung up on.
"""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.certificates import make_certificate

_ROOM = 1 << 16
_BUFFER = 1 << 22
_STDIN = 0


class TLSTerminator:
    """It on a free loopback port, as a process. url, certificate: of it. core: where it runs; None: anywhere."""

    def __init__(self, port: int, core: int | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        made = make_certificate(Path(self._folder.name))
        self.certificate = made.path
        command = [sys.executable, "-m", "benchmarks.tlsterminator", str(port), made.path, made.key_path]
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        )
        assert self._process.stdout is not None
        self.url = f"https://127.0.0.1:{int(self._process.stdout.readline())}"

    def __enter__(self) -> TLSTerminator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


class _Pairs:
    """Connections two by two: what one of them gives, the other gets."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port, self._context = port, context
        self._poll = select.epoll()
        self._partner: dict[socket.socket, socket.socket] = {}
        self._by_fd: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Until standard input ends, as it does with the process at its other end."""
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as door:
            print(door.getsockname()[1], flush=True)
            for fd in (door.fileno(), _STDIN):
                self._poll.register(fd, select.EPOLLIN)
            while True:
                for fd, _ in self._poll.poll():
                    if fd == _STDIN:
                        return
                    if fd == door.fileno():
                        self._meet(door)
                    elif fd in self._by_fd:
                        self._pass_on(self._by_fd[fd])

    def _meet(self, door: socket.socket) -> None:
        plain, _ = door.accept()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        plain.setblocking(False)
        secure = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        server = socket.create_connection(("127.0.0.1", self._port))
        for one, other in ((secure, server), (server, secure)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._partner[one] = other
            self._by_fd[one.fileno()] = one
            self._poll.register(one.fileno(), select.EPOLLIN)

    def _pass_on(self, source: socket.socket) -> None:
        secure = isinstance(source, ssl.SSLSocket)
        try:
            data = source.recv(_ROOM)  # a secure one shakes hands at its first
            while data:
                self._partner[source].sendall(data)
                # what OpenSSL has taken already is no longer in the kernel, and wakes nobody
                if not (secure and source.pending()):
                    return
                data = source.recv(_ROOM)
        except ssl.SSLWantReadError:
            return
        except OSError:
            pass
        for each in (source, self._partner.pop(source)):
            self._partner.pop(each, None)
            del self._by_fd[each.fileno()]
            with suppress(OSError):
                each.close()


def main() -> None:
    """Serve."""
    port, certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    _Pairs(int(port), context).serve()


if __name__ == "__main__":
    main()
