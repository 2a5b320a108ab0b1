"""Benchmarks: ``python -m contrastile.benches --help``, and benches/README.md of a checkout."""
