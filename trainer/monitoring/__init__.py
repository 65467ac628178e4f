"""Measurements after every step, and the conditions that end a run early."""
