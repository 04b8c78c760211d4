"""Benchmarks: one module per subject, run by `make bench`."""
