"""The simulator's speed: paced chunks per second from one core, and how late they are written, by its own log.

A reader on another core asks for streams of fixed length at Poisson times and reads all that comes. Beside it stands the
floor of this machine at this moment: what one write of a chunk's size costs that goes through as many connections and
does nothing else. No server that writes each token by itself is faster than that. Both are given in CPU time, which other
processes on the machine change less than they change lateness. A loop of always the same work, before and after, tells
how fast the machine was meanwhile: a rented one may be half as fast in the next minute.

Environment: `LOADS`, such as `LOADS=500x128,900x64`, requests/s x tokens.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import socket
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import loop_ms, quantiles_ms
from benchmarks.processtree import cpu_s
from benchmarks.sidebyside import loads
from fineserve_shapes.simulator.process import SimulatorProcess

SECONDS = 6.0
TTFT_S = 0.1
ITL_S = 0.01
NAP_S = 5e-4
"""The reader looks at its sockets so often: a wake-up per chunk would be the writer's to pay."""
LOADS = "200x128,400x128,500x128,900x64"
CHUNK = b"x" * 260


def _pin(pid: int, core: int) -> None:
    """Give a process a core, and this session's niceness: it has a session of its own, which counts for itself."""
    group = Path("/proc/self/autogroup")
    if group.exists() and os.geteuid() == 0:
        Path(f"/proc/{pid}/autogroup").write_text(group.read_text().split()[-1])
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def _read(port: int, rate_rps: float, tokens: int, core: int) -> None:
    """Send the load and read it to its end."""
    os.sched_setaffinity(0, {core})
    rng = np.random.default_rng(1)
    times_s = np.cumsum(rng.exponential(1.0 / rate_rps, int(rate_rps * SECONDS))) + 0.2 + time.perf_counter()
    body = json.dumps({"prompt": list(range(1000, 1100)), "max_tokens": tokens, "stream": True, "ignore_eos": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    request = (head + body).encode()
    poll = select.epoll()
    by_fd: dict[int, socket.socket] = {}
    idle: list[socket.socket] = []
    sent = done = 0
    buffer = bytearray(1 << 18)
    deadline_s = times_s[-1] + 60.0
    while done < len(times_s) and time.perf_counter() < deadline_s:
        while sent < len(times_s) and times_s[sent] <= time.perf_counter():
            sock = idle.pop() if idle else socket.create_connection(("127.0.0.1", port))
            if sock.fileno() not in by_fd:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                by_fd[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
            sock.sendall(request)
            sent += 1
        for fd, _ in poll.poll(0):
            count = os.readv(fd, [buffer])
            if not count:
                poll.unregister(fd)
                sock = by_fd.pop(fd)
                idle = [other for other in idle if other is not sock]
                sock.close()
            elif buffer[count - 7 : count] == b"\r\n0\r\n\r\n":
                done += 1
                idle.append(by_fd[fd])
        time.sleep(NAP_S)


def _sink(port: int, connections: int, core: int) -> None:
    """Read whatever comes until the other side has gone."""
    os.sched_setaffinity(0, {core})
    poll = select.epoll()
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for sock in socks:
        poll.register(sock, select.EPOLLIN)
    buffer = bytearray(1 << 18)
    while True:
        for fd, _ in poll.poll(0):
            if not os.readv(fd, [buffer]):
                return
        time.sleep(NAP_S)


def floor_us(connections: int) -> float:
    """CPU of a write, one after the other through so many connections; microseconds."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        sink = multiprocessing.Process(target=_sink, args=(server.getsockname()[1], connections, 1), daemon=True)
        sink.start()
        socks = [server.accept()[0] for _ in range(connections)]
    for sock in socks:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    spent_s = 0.0
    for _ in range(100):
        began_s = time.process_time()
        for sock in socks:
            os.write(sock.fileno(), CHUNK)
        spent_s += time.process_time() - began_s
        time.sleep(2e-3)
    os.sched_setaffinity(0, before)
    for sock in socks:
        sock.close()
    sink.join(5.0)
    return 1e6 * spent_s / (100 * connections)


def main() -> None:
    """Print a line per load."""
    if len(os.sched_getaffinity(0)) < 2:
        print("this needs two cores")
        return
    for load in loads(LOADS):
        rate_rps, tokens = load.rate_rps, load.tokens
        floor = floor_us(int(rate_rps * tokens * ITL_S))
        loops_ms = [loop_ms(1)]
        with tempfile.TemporaryDirectory() as folder:
            truth = Path(folder) / "truth.jsonl"
            with SimulatorProcess(ttft_ms=1e3 * TTFT_S, itl_ms=1e3 * ITL_S, ground_truth=truth) as server:
                _pin(server.pid, 0)
                before_s = cpu_s(server.pid)
                reader = multiprocessing.Process(target=_read, args=(server.port, rate_rps, tokens, 1), daemon=True)
                reader.start()
                reader.join(SECONDS + 90.0)
                spent_s = cpu_s(server.pid) - before_s
                loops_ms.append(loop_ms(1))
            rows = [json.loads(line) for line in truth.read_text().splitlines()]
        due_s = np.concatenate([row["chunk_due_s"] for row in rows])
        late_s = np.concatenate([row["chunk_written_s"] for row in rows]) - due_s
        # once all streams are under way, and while all still are
        steady = (due_s > due_s.min() + tokens * ITL_S) & (due_s < due_s.max() - tokens * ITL_S)
        span_s = float(np.ptp(due_s[steady]))
        print(f"{rate_rps:g}/s of {tokens} tokens: {steady.sum() / span_s:,.0f} chunks/s;"
              f" late {quantiles_ms(late_s[steady])}; {1e6 * spent_s / len(due_s):.1f} us of CPU per chunk,"
              f" requests included; a bare write {floor:.1f} us;"
              f" a loop {sum(loops_ms) / 2:.0f} ms", flush=True)  # fmt: skip
