"""Compares LoRAs with the base and each other on one list of prompts: `python -m evaluation.comparison`."""
