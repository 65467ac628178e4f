"""Measures samples, chooses checkpoint and scale, and compares LoRAs."""
