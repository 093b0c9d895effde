"""Benchmarks of speed, cost and robustness, to be run by hand; tests only check that small versions of some work."""
