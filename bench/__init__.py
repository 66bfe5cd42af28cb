"""Benchmarks: one file per measurement, each figure with its target; `python -m bench`."""
