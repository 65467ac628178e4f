"""Benchmarks of learning: ablations, and comparisons with other trainers."""
