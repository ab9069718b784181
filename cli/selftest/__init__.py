"""`vrambroker selftest`: the whole path to one device, proved by use in a broker of its own."""
