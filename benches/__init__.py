"""Benchmarks: ``python -m contrastile.benches --help``, and README.md beside this file."""
