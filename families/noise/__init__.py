"""Noise processes: how latents are noised, and what the model predicts."""
