"""The HTML report: one file that shows a run, or several side by side, without a network."""
