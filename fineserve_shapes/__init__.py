"""Realistic LLM traffic for Locust: open loop, from recorded or synthesised traces, with the proof that it was delivered.

Importing this package imports neither Locust nor gevent: the rooms ``workload``, ``protocol`` and ``measure`` are a
library of their own. What a locustfile needs is in ``fineserve_shapes.shapes`` and ``fineserve_shapes.users``.
"""

__version__ = "0.1.0"
