"""What to send and when: plans made before anything is sent. Pure NumPy, SciPy, pandas and pyarrow."""
