"""Sockets to the server under test. No leases, no Locust."""
