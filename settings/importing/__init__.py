"""Translates configurations of other trainers into settings. Nothing of them is evaluated."""
