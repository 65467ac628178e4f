"""Checkpoints: the folders, the state in them, and its file format."""
