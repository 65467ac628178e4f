"""Captions: found, generated, and combined with trigger words."""
