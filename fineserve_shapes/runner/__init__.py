"""Drives Locust: its events, signals and messages in, its statistics out. The only room that touches an environment."""
