"""Sending on time: the only room with sockets and timers (gevent)."""
