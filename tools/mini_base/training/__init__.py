"""Trains the parts of the embedded base, one a file."""
