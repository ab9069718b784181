"""Load for a broker, made on purpose, and what it was like to be its client.

Every time is counted from when a command was meant to be sent, so that a broker that stalls is not spared the commands
that a polite client would have held back (Tene, "How NOT to Measure Latency").
"""
