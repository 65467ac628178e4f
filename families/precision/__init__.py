"""Frozen weights stored in fewer bits than the precision of computation."""
