"""The turns that tests take themselves."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from turns import turn


def test_one_that_is_alone_meets_nobody_and_is_not_passed_by(tmp_path: Path):
    """Others come without a pause, in more threads than a run has processes."""
    rooms = tmp_path / "room", tmp_path / "door"
    for path in rooms:
        path.touch()
    inside, met, stop = 0, [], threading.Event()
    counting = threading.Lock()

    def others() -> None:
        nonlocal inside
        while not stop.is_set():
            with turn(alone=False, rooms=rooms):
                with counting:
                    inside += 1
                time.sleep(0.002)
                with counting:
                    inside -= 1

    threads = [threading.Thread(target=others) for _ in range(4)]
    for thread in threads:
        thread.start()
    begin_s = time.monotonic()
    for _ in range(5):
        with turn(alone=True, rooms=rooms):
            met.append(inside)
            time.sleep(0.005)
            met.append(inside)
    took_s = time.monotonic() - begin_s
    stop.set()
    for thread in threads:
        thread.join()
    assert met == [0] * 10
    assert took_s < 10
