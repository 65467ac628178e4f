"""Estimates for a training: memory, time, and cost."""
