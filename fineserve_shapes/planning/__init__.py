"""Options become plans. Nothing runs here, and nothing is logged."""
