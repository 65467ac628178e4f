"""Turns uploads into a dataset folder: unpack, decode, caption, crop. Imports neither trainer nor models."""
