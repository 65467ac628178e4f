"""Wrappers of a base's noise process and prompt encoder for training, one per file."""
