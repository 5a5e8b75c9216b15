"""Hypothesis settings for the core's laws: the same examples on every machine, no deadline on noisy cores."""

from hypothesis import HealthCheck, settings

settings.register_profile("laws", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("laws")
