"""Greenlets that lease, send and collect: master, worker, dispatch. No Locust, no HTTP."""
