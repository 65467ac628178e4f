"""Placeholder tokens of the concepts: how they are added, initialised and constrained."""
