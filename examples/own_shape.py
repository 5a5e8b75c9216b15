"""A shape of one's own: the same number of requests at once, again and again, until the run's time is over.

locust -f examples/own_shape.py --headless -t 3s --volley-size 5
"""

from collections.abc import Iterator
from itertools import count

import numpy as np

from fineserve_shapes.options import Option
from fineserve_shapes.shapes import Block, Plan, PlanShape, Values
from fineserve_shapes.users import CompletionUser

EVERY_S = 1.0


class Volleys(PlanShape):
    mode = "volleys"
    option_list = (Option("--volley-size", "requests at once, in the middle of each second", "5"),)

    def plan(self, values: Values) -> Plan:
        size = values.count("--volley-size") or 5

        def blocks() -> Iterator[Block]:
            """One block of rows in time order per volley; the same rows whenever it is called."""
            for volley in count():
                each = np.ones(size, dtype=np.int64)
                index = volley * size + np.arange(size)
                due_s = each * (volley + 0.5) * EVERY_S
                yield Block(index, due_s, input_tokens=64 * each, output_tokens=8 * each, stream=0 * each)

        return Plan(blocks, identity={"volley_size": size}, endless=True)


class Completions(CompletionUser):
    pass
