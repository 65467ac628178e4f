"""Checkpoints: their folders, the training state and its file format."""
