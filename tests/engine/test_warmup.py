"""The warm-up: requests like the plan's first ones, before its time 0."""

from __future__ import annotations

from typing import Any

import gevent
import numpy as np

from fineserve_shapes.engine.master import Master
from fineserve_shapes.engine.run import Run, Settings
from fineserve_shapes.leases import messages
from fineserve_shapes.measure.names import Names
from fineserve_shapes.workload.block import Block


def test_each_stream_of_a_mix_is_warmed_up_as_the_plan_begins():
    """Its own lengths go to its own server; the workers divide them."""
    sent: list[tuple[str, str, dict[str, Any]]] = []
    master = Master(lambda kind, data, worker: sent.append((kind, worker, data)), lambda: ["v", "w"])
    one = np.ones(3, dtype=np.int64)
    block = Block(np.arange(3), np.arange(3.0), one * [100, 200, 300], one * [10, 20, 30], one * [0, 1, 0])
    settings = Settings(warmup_requests=5, names=Names(("chat", "code"), mixed=True))
    run = Run([block], 3, settings, local=False)
    master.begin(run)
    try:
        for worker in ("v", "w"):
            master.on_hello(worker, {"streams": {"chat": {}, "code": {}}})
        with gevent.Timeout(5):
            while len(sent) < 2:
                gevent.sleep(0.01)
    finally:
        master.drain(0)
    asked = {worker: messages.unpack_rows(data) for kind, worker, data in sent if kind == messages.WARM_UP}
    rows = sorted((row for rows in asked.values() for row in rows), key=lambda row: row.request)
    assert [len(rows) for rows in asked.values()] == [3, 2]
    assert [(row.stream, row.input_tokens, row.output_tokens) for row in rows] == [
        (0, 100, 10), (1, 200, 20), (0, 300, 30), (0, 100, 10), (1, 200, 20)
    ]  # fmt: skip
    assert [row.request for row in rows] == [0, 1, 2, 3, 4]
