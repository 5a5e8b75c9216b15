"""Bytes to values and values to bytes: no I/O and no clock of its own."""
