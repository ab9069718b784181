"""Other ways to route a command to a Python worker, each in an environment of its own beneath `build/peers/`.

`python -m bench.peers` runs here; the `*_echo` modules run over there, and know the standard library
and their peer alone.
"""
