"""The LLM tab of Locust's web UI, and the Prometheus endpoint: how a run looks from outside while it goes on."""
