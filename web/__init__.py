"""Health and metrics over HTTP, by a process of its own: a client of the broker like any other."""
