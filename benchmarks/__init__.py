"""Repeatable measurements and their results."""
