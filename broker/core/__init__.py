"""The broker's decisions, without I/O: events in, effects out.

All state of the broker lives here. Clock, ids and randomness are passed in; nothing here opens a socket, sleeps, or
raises on what a remote side sent.
"""
