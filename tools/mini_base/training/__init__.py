"""Trains the parts of the embedded base, one per file."""
