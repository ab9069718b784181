"""`python -m cli` is `vrambroker`."""

from cli.main import main

main()
