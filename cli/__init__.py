"""The command `vrambroker`: a client like any other, and the way to start a broker. Decides how things look."""
