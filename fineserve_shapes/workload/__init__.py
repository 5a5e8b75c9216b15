"""What to send and when, made before anything is sent: NumPy and files. No gevent, no Locust."""
