"""What happened: values in, figures out. No gevent, no Locust."""
