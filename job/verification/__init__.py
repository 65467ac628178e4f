"""Reads the written artifact back and compares it with the trained model."""
