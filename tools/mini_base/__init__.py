"""Draws a small captioned world and trains the embedded base model on it."""
