"""Benchmarks, each against its peer or its limit, in one run on one machine."""
