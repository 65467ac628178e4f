"""Merges, extracts and resizes LoRA files."""
