"""Converts LoRA files between the formats of different tools."""
