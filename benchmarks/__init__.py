"""Measurements that can be repeated, and their results: `python -m benchmarks.data`, `python -m benchmarks.buckets`."""
