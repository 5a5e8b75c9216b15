"""Recorded traces: files of many forms become the same columns."""
