"""Runs work on all cores and in all processes, in order."""
