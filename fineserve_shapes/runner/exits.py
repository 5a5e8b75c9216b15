"""Exits: the codes with which a process ends."""

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INVALID = 3
"""Of --fail-if-invalid."""
EXIT_MISSED = 4
"""Of --threshold and --fail-if-slo-missed."""
