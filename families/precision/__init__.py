"""Frozen weights in fewer bits than they are computed with."""
