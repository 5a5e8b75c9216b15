"""A server that speaks vLLM's HTTP dialect: the embedded default, and the ground truth of the tests."""
